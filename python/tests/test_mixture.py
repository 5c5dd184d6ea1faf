"""Several data sets by weight."""

import json

import pytest

import penstock


@pytest.fixture
def sets(make_data_set):
    return make_data_set([40] * 40, "a"), make_data_set([24] * 30, "b")


def members_of(batch):
    return [int(member) for member in batch.members]


@pytest.mark.parametrize("form", ["mapping", "pairs", "mappings", "text"])
def test_data_sets_come_by_weight_and_each_sample_says_its_own(sets, open_loader, form):
    a, b = sets
    mixture = {"mapping": {a.root: 8, b.root: 2}, "pairs": [(a.root, 0.8), (b.root, 0.2)],
               "mappings": [{"root": a.root, "weight": 8}, {"root": b.root, "weight": 2}],
               "text": json.dumps([{"root": a.root, "weight": 8}, {"root": b.root, "weight": 2}])}[form]
    loader = open_loader(None, mixture=mixture, mixture_period=10, epoch_samples=50, batch_size=10)
    assert len(loader) == 5
    for batch in loader:
        assert sum(members_of(batch)) == 2
        for place, (member, sample_id) in enumerate(zip(members_of(batch), batch.ids.tolist())):
            own = sample_id - (40 if member else 0)
            assert bytes(batch[place]) == (b if member else a).content[own]
            assert batch.labels[place] == (b if member else a).labels[own]
    assert loader.report()["member_samples"] == [40, 10]
    assert [member["first_id"] for member in loader.setup()["members"]] == [0, 40]
    assert a.root in repr(loader)


def test_new_weights_begin_with_the_next_batch_and_the_state_has_them(sets, open_loader):
    a, b = sets
    loader = open_loader(None, mixture={a.root: 1, b.root: 1}, mixture_period=10, epoch_samples=200, batch_size=10)
    batches = iter(loader)
    assert sum(members_of(next(batches))) == 5
    loader.set_weights([0.1, 0.9])
    assert sum(members_of(next(batches))) == 9
    state = loader.state_dict()
    rest = [int(sample_id) for batch in batches for sample_id in batch.ids]
    other = open_loader(None, mixture={a.root: 1, b.root: 1}, state=state, batch_size=5)
    assert [int(sample_id) for batch in other for sample_id in batch.ids] == rest
    for wrong in ([1], [], [0, 0], [-1, 2]):
        with pytest.raises(penstock.InvalidArgumentError):
            other.set_weights(wrong)
    with pytest.raises(TypeError):
        other.set_weights(None)


def test_one_data_set_has_neither_members_nor_weights(sets, open_loader):
    loader = open_loader(sets[0])
    assert next(iter(loader)).members is None
    with pytest.raises(penstock.FailedPreconditionError, match="mixture"):
        loader.set_weights([1])


def test_what_is_no_mixture_is_refused(sets):
    a = sets[0].root
    for mixture, words in (([a], "a data set is"), ([(a, 1, 2)], "a data set is"), ({a: "x"}, "weight"), ([{"path": a}], "none of root"),
                           ("x", "JSON"), ([], "root is empty")):
        with pytest.raises(penstock.InvalidArgumentError, match=words):
            penstock.Loader(mixture=mixture)
    with pytest.raises(penstock.InvalidArgumentError, match="leave the options root"):
        penstock.Loader(a, mixture={a: 1})
    with pytest.raises(penstock.InvalidArgumentError, match="order of its own"):
        penstock.Loader(mixture={a: 1}, ids=[1, 2])
    with pytest.raises(penstock.InvalidArgumentError, match="root is empty"):
        penstock.Loader()
