"""Which tests `./just test` runs, of those that run on both databases."""

from types import SimpleNamespace

from tests.conftest import draw_databases

PAIRED = [
    f"test_rows.py::test_{n}[{kind}-{n}]" for n in range(20) for kind in ("sqlite", "postgresql")
]
ALONE = [
    "test_rows.py::test_size",
    "test_rows.py::test_lock[sqlite]",
    "test_rows.py::test_url[postgresql]",
]


def draw(names, seed):
    kept, dropped = draw_databases([SimpleNamespace(nodeid=name) for name in names], seed)
    return [item.nodeid for item in kept], [item.nodeid for item in dropped]


def test_each_test_runs_on_one_database_and_the_others_run_as_they_are():
    kept, dropped = draw([*PAIRED, *ALONE], "7")
    assert sorted([*kept, *dropped]) == sorted([*PAIRED, *ALONE])
    assert set(ALONE) <= set(kept)
    assert len(dropped) == len(PAIRED) / 2
    assert len({name.split("[")[0] for name in dropped}) == len(dropped)


def test_another_seed_draws_other_databases_and_the_same_seed_the_same():
    assert draw(PAIRED, "7") == draw(PAIRED, "7")
    drawn = {name for seed in range(10) for name in draw(PAIRED, str(seed))[0]}
    assert drawn == set(PAIRED)
