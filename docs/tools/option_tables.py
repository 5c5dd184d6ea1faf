"""Classes whose docstring ends with the list of options, which the package adds when it runs: the reference has a link to the tables there."""
import griffe


class OptionTables(griffe.Extension):
    def on_class(self, *, cls, **kwargs):
        if cls.docstring and cls.docstring.value.rstrip().endswith(":"):
            cls.docstring.value = f"{cls.docstring.value.rstrip()} see [the tables](../options.md)."
