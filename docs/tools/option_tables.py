"""The package adds the list of options to the docstrings of some classes when it runs. The reference, which only reads the source, has a
link to the tables there."""
import griffe


class OptionTables(griffe.Extension):
    def on_class(self, *, cls, **kwargs):
        if cls.docstring and cls.docstring.value.rstrip().endswith(":"):
            cls.docstring.value = f"{cls.docstring.value.rstrip()} see [the tables](../options.md)."
