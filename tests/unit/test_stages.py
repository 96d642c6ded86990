"""A function whose every call is an execution."""

import asyncio
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

import cmf
from cmf.graph import views
from tests.commands import script

TEXT = "a line that is long enough to be told from any other line of the kind, by its content alone\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "farm"
    (place / ".cmf").mkdir(parents=True)
    monkeypatch.chdir(place)
    return place


def recorded() -> list[views.Execution]:
    """Return what was recorded, oldest first."""
    with cmf.open() as repo:
        return repo.executions()[::-1]


def only() -> views.Execution:
    (found,) = recorded()
    return found


@cmf.stage("farm/shear")
def shear(sheep: int, blade: str = "short", *, where: Path | None = None, **more: object) -> list[int]:
    """Shear some sheep."""
    return [sheep]


class Farm:
    @cmf.stage("farm/count")
    def count(self, sheep: int) -> int:
        return sheep + 1


def test_a_call_is_an_execution_with_its_plain_arguments_as_parameters() -> None:
    assert shear(3, where=Path("a/b"), dog=object(), days=(1, 2), grid={"x": [1.5, None]}) == [3]
    found = only()
    assert (found.scope, found.status) == ("farm/shear", "finished")
    assert found.params == {
        "sheep": 3,
        "blade": "short",
        "where": "a/b",
        "days": [1, 2],
        "grid": {"x": [1.5, None]},
    }


def test_data_among_the_arguments_is_no_parameter() -> None:
    shear(1, flock=list(range(100_000)), deep=[[[[[[1]]]]]])
    assert set(only().params) == {"sheep", "blade", "where"}


def test_the_result_is_the_very_object_that_the_function_returned() -> None:
    result = object()

    @cmf.stage
    def give() -> object:
        return result

    assert give() is result


def test_without_a_scope_a_stage_is_the_folder_s_and_the_function_s_name() -> None:
    @cmf.stage
    def wash() -> None: ...

    @cmf.stage()
    def dry() -> None: ...

    wash()
    dry()
    assert [found.scope for found in recorded()] == ["farm/wash", "farm/dry"]


def test_a_bad_scope_is_refused_where_the_function_is_defined() -> None:
    with pytest.raises(cmf.UsageError, match="not a scope"):
        cmf.stage("farm/with space/x")(shear)


def test_an_exception_ends_it_as_failed_and_goes_on() -> None:
    error = ValueError("a wolf")

    @cmf.stage("farm/shear")
    def fails() -> None:
        raise error

    with pytest.raises(ValueError, match="a wolf") as raised:
        fails()
    assert raised.value is error
    found = only()
    assert (found.status, found.error["type"], found.error["message"]) == ("failed", "ValueError", "a wolf")


def test_wrong_arguments_are_the_function_s_own_error() -> None:
    with pytest.raises(TypeError, match="sheep"):
        shear(blade="long")  # type: ignore[call-arg]
    assert only().status == "failed"


def test_files_that_arguments_name_and_paths_are_inputs_and_outputs() -> None:
    @cmf.stage("farm/spin", inputs=["wool", "dye.txt"], outputs=["yarn", "spools"])
    def spin(wool: str, yarn: Path, spools: list[str]) -> None:
        yarn.write_text("yarn " + TEXT)
        for spool in spools:
            Path(spool).write_text(spool + TEXT)

    Path("wool.txt").write_text(TEXT)
    Path("dye.txt").write_text("dye " + TEXT)
    spin("wool.txt", Path("yarn.txt"), ["s1", "s2"])
    found = only()
    assert {(use.path, use.role) for use in found.inputs} == {("wool.txt", "wool"), ("dye.txt", "")}
    assert {(use.path, use.role) for use in found.outputs} == {("yarn.txt", "yarn"), ("s1", "spools"), ("s2", "spools")}


def test_a_declared_file_that_is_not_there_is_counted_and_the_result_stands() -> None:
    @cmf.stage("farm/spin", outputs=["yarn.txt"])
    def spin() -> int:
        return 7

    with pytest.warns(cmf.CmfWarning, match=r"yarn\.txt"):
        assert spin() == 7
    assert only().status == "finished"
    with cmf.open() as repo:
        assert repo.status().dropped == 1


def test_a_stage_in_a_stage_or_in_an_open_run_is_its_child() -> None:
    @cmf.stage("farm/season")
    def season() -> None:
        shear(1)

    season()
    outer, inner = recorded()
    assert inner.parent == outer.node
    with cmf.run("farm/year") as year:
        shear(2)
    assert recorded()[-1].parent == year.node
    shear(3)
    assert recorded()[-1].parent == ""


def test_current_is_the_innermost_run_and_an_error_outside() -> None:
    @cmf.stage("farm/weigh")
    def weigh() -> str:
        cmf.current().metrics(kilos=4)
        return cmf.current().scope

    with cmf.run("farm/year") as year:
        assert cmf.current() is year
        assert weigh() == "farm/weigh"
        assert cmf.current() is year
    assert next(found for found in recorded() if found.scope == "farm/weigh").metrics == {"kilos": 4}
    with pytest.raises(cmf.NotFoundError, match="No run is open"):
        cmf.current()


def test_current_in_another_thread_is_the_one_open_run_and_nothing_where_there_are_two() -> None:
    said: list[str] = []

    def ask() -> None:
        try:
            said.append(cmf.current().scope)
        except cmf.NotFoundError:
            said.append("")

    def ask_in_thread() -> None:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    with cmf.run("farm/year"):
        ask_in_thread()
        with cmf.run("farm/season"):
            ask_in_thread()
    assert said == ["farm/year", ""]


def test_a_method_is_a_stage_and_its_object_no_parameter() -> None:
    assert Farm().count(2) == 3
    assert only().params == {"sheep": 2}


def test_what_inspects_or_pickles_a_stage_sees_the_function() -> None:
    assert shear.__name__ == "shear"
    assert shear.__doc__ == "Shear some sheep."
    assert list(inspect.signature(shear).parameters) == ["sheep", "blade", "where", "more"]
    assert pickle.loads(pickle.dumps(shear)) is shear


def test_stages_run_in_the_processes_of_a_pool(folder: Path) -> None:
    (folder / "work.py").write_text(
        "import cmf\n@cmf.stage('farm/square')\ndef square(number: int) -> int:\n    return number * number\n"
    )
    script(
        folder,
        "import multiprocessing as m\nfrom work import square\n"
        "if __name__ == '__main__':\n"
        "    with m.get_context('spawn').Pool(2) as pool:\n"
        "        assert pool.map(square, range(4)) == [0, 1, 4, 9]\n"
        "        pool.close()\n        pool.join()\n",
    )
    found = recorded()
    assert sorted(one.params["number"] for one in found) == [0, 1, 2, 3]
    assert {one.status for one in found} == {"finished"}


def test_a_coroutine_lasts_until_it_returns_and_tasks_do_not_meet() -> None:
    @cmf.stage("farm/graze")
    async def graze(field: int) -> str:
        await asyncio.sleep(0)
        cmf.current().metrics(field=field)
        await asyncio.sleep(0)
        return cmf.current().id

    async def day() -> list[str]:
        return await asyncio.gather(*(graze(field) for field in range(5)))

    assert inspect.iscoroutinefunction(graze)
    ids = asyncio.run(day())
    found = recorded()
    assert [one.id for one in sorted(found, key=lambda one: one.params["field"])] == ids
    assert all(one.metrics == one.params and one.status == "finished" for one in found)


def test_a_generator_lasts_until_it_is_exhausted_and_its_consumer_is_outside() -> None:
    @cmf.stage("farm/lamb")
    def lambs(count: int) -> Generator[str, str | None, str]:
        got: str | None = None
        for _ in range(count):
            got = yield cmf.current().scope if got is None else f"{got}!"
        return "done"  # a generator's result, which `yield from` gives

    assert inspect.isgeneratorfunction(lambs)
    with cmf.run("farm/year") as year:
        made = lambs(2)
        assert next(made) == "farm/lamb"
        assert cmf.current() is year
        assert made.send("meh") == "meh!"
        with pytest.raises(StopIteration) as stopped:
            next(made)
        assert stopped.value.value == "done"
    assert {found.status for found in recorded()} == {"finished"}


def test_a_generator_hears_what_is_thrown_in_and_ends_finished_where_its_consumer_has_enough() -> None:
    @cmf.stage("farm/lamb")
    def lambs() -> Iterator[int]:
        while True:
            try:
                yield 1
            except KeyError:
                yield 2

    made = lambs()
    next(made)
    assert made.throw(KeyError("x")) == 2  # type: ignore[attr-defined]
    made.close()  # type: ignore[attr-defined]
    assert only().status == "finished"
    failing = lambs()
    next(failing)
    with pytest.raises(ValueError, match="y"):
        failing.throw(ValueError("y"))  # type: ignore[attr-defined]
    assert recorded()[-1].status == "failed"


def test_an_asynchronous_generator_is_a_stage() -> None:
    @cmf.stage("farm/milk")
    async def milk() -> AsyncIterator[str]:
        yield cmf.current().scope
        await asyncio.sleep(0)
        yield "more"

    async def day() -> list[str]:
        return [item async for item in milk()]

    assert asyncio.run(day()) == ["farm/milk", "more"]
    assert only().status == "finished"


def test_with_recording_off_a_stage_is_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMF_MODE", "off")

    @cmf.stage("farm/weigh", inputs=["nothing.txt"])
    def weigh() -> str:
        cmf.current().metrics(kilos=4)
        return "weighed"

    assert weigh() == "weighed"
    assert recorded() == []
