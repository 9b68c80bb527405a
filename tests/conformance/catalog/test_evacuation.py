"""Doing without a provider: plan, evacuation and its proof, replacement, drill."""

from __future__ import annotations

from typing import Any

import pytest

from catalogs.driver import Driver
from cdir.errors import InvalidArgument, NotFound, PreconditionFailed
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2, exit_pb2, provider_pb2
from cdir.v1 import provider_service_pb2 as providers


async def _work_off(driver: Driver) -> list[catalog.DebtItem]:
    worked = []
    while items := await driver.claim():
        worked += items
        await driver.finish(items)
    return worked


async def _plan(driver: Driver, name: str, **fields: Any) -> exit_pb2.EvacuationPlan:
    response = await driver.call("PlanEvacuation", catalog.PlanEvacuationRequest(name=name, **fields))
    plan: exit_pb2.EvacuationPlan = response.plan
    return plan


async def _start(driver: Driver, name: str, **fields: Any) -> exit_pb2.Job:
    response = await driver.call("StartEvacuation", catalog.StartEvacuationRequest(name=name, **fields))
    job: exit_pb2.Job = response.job
    return job


async def _look(driver: Driver, job: exit_pb2.Job) -> exit_pb2.Job:
    """Measure a running job once and return how it is then."""
    measured = await driver.call("MeasureEvacuation", catalog.MeasureEvacuationRequest(job_id=job.job_id))
    recorded = await driver.call(
        "RecordEvacuation", catalog.RecordEvacuationRequest(job_id=job.job_id, measure=measured.measure)
    )
    now: exit_pb2.Job = recorded.job
    return now


async def _drill(driver: Driver, *without: str, size: int = 0) -> dict[str, str]:
    """Return the verdicts on every page, by path."""
    found: dict[str, str] = {}
    token = ""
    while True:
        request = providers.DrillProvidersRequest(without=without, page_size=size, page_token=token)
        response = await driver.call("DrillProviders", request)
        for file in response.files:
            found[file.path] = exit_pb2.DrillVerdict.Name(file.verdict).removeprefix("DRILL_VERDICT_")
        token = response.next_page_token
        if not token:
            return found


async def test_a_mirror_is_left_without_a_copy_moved(mirrored: Driver) -> None:
    await mirrored.write("/f", b"12345")
    plan = await _plan(mirrored, "a")
    assert (plan.files, plan.bytes, plan.only_here, plan.unplaceable) == (1, 5, 0, 0)
    assert not plan.gains
    job = await _start(mirrored, "a")
    assert (await _look(mirrored, job)).state == exit_pb2.JOB_STATE_RUNNING  # it is not placed anew yet
    await mirrored.place()
    assert await mirrored.claim() == []
    job = await _look(mirrored, job)
    assert job.state == exit_pb2.JOB_STATE_DONE
    assert (job.proof.files, job.proof.bytes) == (1, 5)
    assert [(one.copies, one.files) for one in job.proof.held] == [(2, 1)]
    assert (await mirrored.read_provider("a")).exit.state == exit_pb2.EXIT_STATE_EVACUATED
    assert (await mirrored.status()).removals == 0
    assert "a" in await mirrored.replicas("/f")  # its copy stays and can be read
    assert (await mirrored.call("DropProvider", catalog.DropProviderRequest(name="a"))).forgotten_replicas == 1


async def test_the_status_shows_how_far_a_provider_is_on_its_way_out(mirrored: Driver) -> None:
    await mirrored.set_policy("/", copies=1)
    await mirrored.write("/f", b"12345", on=["a"])

    async def shown() -> directory.ProviderStatus:
        found = {one.name: one for one in (await mirrored.status()).providers}
        assert not any(found[name].HasField("exit") or found[name].HasField("files_left") for name in "bc")
        return found["a"]

    assert not (await shown()).HasField("exit")
    job = await _start(mirrored, "a")
    leaving = await shown()
    assert leaving.exit.state == exit_pb2.EXIT_STATE_LEAVING
    assert leaving.exit.since == job.started
    assert not leaving.HasField("files_left"), "nobody has counted yet"
    await mirrored.place()
    await _look(mirrored, job)
    assert (await shown()).files_left == 1
    await _work_off(mirrored)
    assert (await _look(mirrored, job)).state == exit_pb2.JOB_STATE_DONE
    gone = await shown()
    assert gone.exit.state == exit_pb2.EXIT_STATE_EVACUATED
    assert not gone.HasField("files_left")
    await mirrored.call("CancelEvacuation", providers.CancelEvacuationRequest(name="a"))
    assert not (await shown()).HasField("exit")


async def test_what_only_it_holds_is_copied_before_it_counts_as_evacuated(mirrored: Driver) -> None:
    await mirrored.set_policy("/", copies=1)
    await mirrored.place()
    begun = await mirrored.begin_one("/f")
    (home,) = [target.provider for target in begun.targets]
    await mirrored.commit_one(mirrored.commitment(begun, b"12345", [home]))
    plan = await _plan(mirrored, home)
    assert (plan.only_here, plan.calls, sum(gain.bytes for gain in plan.gains)) == (1, 2, 5)
    job = await _start(mirrored, home)
    await mirrored.place()
    with pytest.raises(PreconditionFailed, match="evacuated"):
        await mirrored.call("DropProvider", catalog.DropProviderRequest(name=home))
    running = await _look(mirrored, job)
    assert (running.state, running.files, running.files_left) == (exit_pb2.JOB_STATE_RUNNING, 1, 1)
    (item,) = await mirrored.claim()
    assert item.kind == catalog.DEBT_KIND_COPY
    assert [source.provider for source in item.sources] == [home]
    await mirrored.finish([item])
    done = await _look(mirrored, job)
    assert (done.state, done.files_left) == (exit_pb2.JOB_STATE_DONE, 0)
    assert await mirrored.claim() == []  # nothing is removed there
    assert (await mirrored.replicas("/f"))[home].state == entry_pb2.REPLICA_STATE_STALE


async def test_nothing_new_goes_there_and_what_began_before_counts(mirrored: Driver) -> None:
    begun = await mirrored.begin_one("/before")
    assert "a" in [target.provider for target in begun.targets]
    job = await _start(mirrored, "a")
    await mirrored.place()
    assert "a" not in [target.provider for target in (await mirrored.begin_one("/after")).targets]
    assert (await _look(mirrored, job)).state == exit_pb2.JOB_STATE_RUNNING  # a write to it is under way
    await mirrored.commit_one(mirrored.commitment(begun, on=["a", "b"]))
    left = await _look(mirrored, job)
    assert (left.state, left.files_left) == (exit_pb2.JOB_STATE_RUNNING, 1)
    await _work_off(mirrored)
    assert (await _look(mirrored, job)).state == exit_pb2.JOB_STATE_DONE


async def test_a_copy_found_bad_elsewhere_undoes_the_measure(mirrored: Driver) -> None:
    entry = await mirrored.write("/f")
    job = await _start(mirrored, "a")
    await mirrored.place()
    measured = await mirrored.call("MeasureEvacuation", catalog.MeasureEvacuationRequest(job_id=job.job_id))
    for name in ("b", "c"):
        await mirrored.see(entry, name, entry_pb2.REPLICA_STATE_CORRUPT)
    request = catalog.RecordEvacuationRequest(job_id=job.job_id, measure=measured.measure)
    assert (await mirrored.call("RecordEvacuation", request)).job.state == exit_pb2.JOB_STATE_RUNNING
    await _work_off(mirrored)
    assert (await _look(mirrored, job)).state == exit_pb2.JOB_STATE_DONE


async def test_purging_waits_for_the_proof(mirrored: Driver) -> None:
    await mirrored.write("/f", b"1")
    await mirrored.write("/f", b"2")
    job = await _start(mirrored, "a", purge=True)
    await mirrored.place()
    assert await _work_off(mirrored) == []
    assert (await _look(mirrored, job)).state == exit_pb2.JOB_STATE_RUNNING
    assert (await mirrored.read_provider("a")).exit.state == exit_pb2.EXIT_STATE_PURGING
    removed = await _work_off(mirrored)
    assert {(item.kind, item.replica.provider) for item in removed} == {(catalog.DEBT_KIND_REMOVE, "a")}
    assert len(removed) == 2
    done = await _look(mirrored, job)
    assert (done.state, done.proof.files, done.proof.versions) == (exit_pb2.JOB_STATE_DONE, 1, 1)
    assert (await mirrored.read_provider("a")).exit.state == exit_pb2.EXIT_STATE_EVACUATED
    assert "a" not in await mirrored.replicas("/f")


async def test_older_contents_that_only_it_holds_are_copied_too(driver: Driver) -> None:
    await driver.add_provider("old")
    await driver.write("/f", b"1")
    await driver.write("/f", b"2")
    await driver.write("/gone", b"3")
    await driver.remove("/gone")
    await driver.add_provider("new")
    await driver.place()
    await _work_off(driver)
    assert (await _plan(driver, "old")).versions == 2
    job = await _start(driver, "old", purge=True)
    await driver.place()
    assert (await _look(driver, job)).versions_left == 2
    for _ in range(2):  # copying, proof; removing, end
        await _work_off(driver)
        job = await _look(driver, job)
    assert job.state == exit_pb2.JOB_STATE_DONE
    older = await driver.resolve("/f", generation=1)
    assert [replica.provider for replica in older.replicas] == ["new"]
    assert older.replicas[0].key.startswith(".cdir/versions/")


async def test_a_file_overwritten_before_its_copy_was_made_keeps_the_older_content(driver: Driver) -> None:
    await driver.add_provider("old")
    await driver.write("/f", b"1")
    await driver.add_provider("new")
    job = await _start(driver, "old")
    await driver.place()
    await driver.write("/f", b"2")
    (item,) = await driver.claim()
    assert (item.kind, item.replica.provider, item.version.generation) == (catalog.DEBT_KIND_COPY, "new", 1)
    assert item.target_key.startswith(".cdir/versions/")
    await driver.finish([item])
    assert (await _look(driver, job)).state == exit_pb2.JOB_STATE_DONE


async def test_what_may_be_nowhere_else_is_in_the_plan(mirrored: Driver) -> None:
    await mirrored.set_policy("/private", providers=["a"])
    await mirrored.write("/private/f")
    await mirrored.write("/g")
    plan = await _plan(mirrored, "a")
    assert (plan.files, plan.unplaceable, plan.policies) == (2, 1, 1)
    assert [(one.path, "policy" in one.reason) for one in plan.unplaceable_files] == [("/private/f", True)]
    # begun all the same, it waits, and the copy stays
    job = await _start(mirrored, "a")
    await mirrored.place()
    waiting = await _look(mirrored, job)
    assert (waiting.files_left, "nowhere else" in waiting.message) == (1, True)
    assert (await mirrored.states("/private/f"))["a"] == "OK"


async def test_the_choice_of_targets(mirrored: Driver) -> None:
    await mirrored.set_policy("/", copies=1)
    await mirrored.add_provider("d", priority=900)
    await mirrored.place()
    await mirrored.write("/f")
    (home,) = await mirrored.replicas("/f")
    plan = await _plan(mirrored, home, to=["d"])
    assert [(gain.provider, gain.files) for gain in plan.gains] == [("d", 1)]
    await _start(mirrored, home, to=["d"])
    await mirrored.place()
    await _work_off(mirrored)
    assert (await mirrored.states("/f"))["d"] == "OK"


async def test_targets_that_are_too_few(mirrored: Driver) -> None:
    await mirrored.set_policy("/", copies=3)
    await mirrored.add_provider("d", priority=1)
    await mirrored.add_provider("e")
    await mirrored.place()
    await mirrored.write("/f")
    holders = sorted((await mirrored.replicas("/f")).keys() - {"d"})
    first, second = holders
    spare = next(name for name in ("a", "b", "c", "e") if name not in holders)
    assert (await _plan(mirrored, first, to=[second])).unplaceable == 1  # it holds one already
    assert (await _plan(mirrored, first, to=[spare])).unplaceable == 0
    await mirrored.set_policy("/", copies=5)
    assert (await _plan(mirrored, first)).scarce == 1


async def test_bad_targets(mirrored: Driver) -> None:
    await mirrored.write("/f")
    for call in (_plan, _start):
        with pytest.raises(NotFound):
            await call(mirrored, "none")
        with pytest.raises(NotFound):
            await call(mirrored, "a", to=["none"])
        with pytest.raises(InvalidArgument):
            await call(mirrored, "a", to=["a"])
        with pytest.raises(InvalidArgument):
            await call(mirrored, "a", replacement="a")
    await mirrored.observe("b", provider_pb2.PROVIDER_STATE_DOWN, "gone fishing")
    with pytest.raises(PreconditionFailed, match="gone fishing"):
        await _start(mirrored, "a", to=["b"])
    await mirrored.change_provider("c", paused=True)
    with pytest.raises(PreconditionFailed, match="paused"):
        await _start(mirrored, "a", to=["c"])
    await mirrored.change_provider("a", read_only=True)
    with pytest.raises(PreconditionFailed, match="read-only"):
        await _start(mirrored, "a", purge=True)
    assert not (await mirrored.read_provider("a")).HasField("exit")


async def test_taking_it_back(mirrored: Driver) -> None:
    await mirrored.write("/f")
    job = await _start(mirrored, "a")
    await mirrored.place()
    await mirrored.write("/f", b"newer")
    await mirrored.write("/g")
    cancel = providers.CancelEvacuationRequest(name="a")
    answer = await mirrored.call("CancelEvacuation", cancel)
    assert not answer.provider.HasField("exit")
    with pytest.raises(PreconditionFailed):
        await mirrored.call("CancelEvacuation", cancel)
    with pytest.raises(NotFound):
        await mirrored.call("CancelEvacuation", providers.CancelEvacuationRequest(name="none"))
    with pytest.raises(NotFound):
        await _look(mirrored, job)
    assert await mirrored.claim() == []  # no copy goes before the files are placed anew
    await mirrored.place()
    worked = await _work_off(mirrored)
    assert {item.path for item in worked if item.kind == catalog.DEBT_KIND_COPY} == {"/f", "/g"}
    assert (await mirrored.states("/f"))["a"] == (await mirrored.states("/g"))["a"] == "OK"
    (ended,) = (await mirrored.call("ListJobs", providers.ListJobsRequest())).jobs
    assert ended.state == exit_pb2.JOB_STATE_CANCELLED


async def test_a_change_of_the_provider_leaves_its_exit_alone(mirrored: Driver) -> None:
    before = await mirrored.read_provider("a")
    job = await _start(mirrored, "a")
    request = catalog.ChangeProviderRequest(expected_revision=before.revision, keep_secrets=True)
    before.name = "z"
    request.provider.provider.CopyFrom(before)
    assert (await mirrored.call("ChangeProvider", request)).provider.exit.state == exit_pb2.EXIT_STATE_LEAVING
    await mirrored.place()
    assert (await _look(mirrored, job)).subject == "z"


async def test_starting_again_goes_on(mirrored: Driver) -> None:
    first = await _start(mirrored, "a")
    assert (await _start(mirrored, "a", to=["b"])).job_id == first.job_id
    listed = (await mirrored.call("ListJobs", providers.ListJobsRequest(running=True))).jobs
    assert [(job.job_id, job.subject, job.author) for job in listed] == [(first.job_id, "a", "ada")]


async def test_one_provider_in_anothers_place(mirrored: Driver) -> None:
    await mirrored.set_policy("/", copies=1)
    await mirrored.set_policy("/pinned", providers=["a"], prefer=["a", "b"])
    await mirrored.place()
    await mirrored.write("/pinned/f")
    await mirrored.add_provider("new", priority=900)
    await mirrored.place()
    plan = await _plan(mirrored, "a", replacement="new")
    assert (plan.unplaceable, plan.policies) == (0, 1)
    assert {gain.provider for gain in plan.gains} == {"new"}
    job = await _start(mirrored, "a", replacement="new")
    await mirrored.place()
    await _work_off(mirrored)
    assert (await _look(mirrored, job)).state == exit_pb2.JOB_STATE_DONE
    policy = await mirrored.call("GetPolicy", directory.GetPolicyRequest(path="/pinned"))
    assert list(policy.own.providers) == ["new"]
    assert list(policy.own.prefer) == ["new", "b"]
    assert (await mirrored.states("/pinned/f"))["new"] == "OK"


async def test_what_it_waits_for(mirrored: Driver) -> None:
    await mirrored.write("/f", on=["a", "b"])
    job = await _start(mirrored, "a")
    await mirrored.place()
    await mirrored.observe("c", provider_pb2.PROVIDER_STATE_DOWN, "no route")
    assert "no route" in (await _look(mirrored, job)).message


async def test_explaining_a_placement_while_one_leaves(mirrored: Driver) -> None:
    await _start(mirrored, "a")
    response = await mirrored.call("ExplainPlacement", directory.ExplainPlacementRequest(path="/f"))
    reasons = {reason.provider: reason for reason in response.reasons}
    assert not reasons["a"].chosen
    assert "evacuated" in reasons["a"].reason


async def test_a_drill(mirrored: Driver) -> None:
    await mirrored.set_policy("/two", copies=2, min_copies=2)
    await mirrored.write("/everywhere")
    for name in "abc":
        await mirrored.write(f"/two/{name}", on=[name, "c" if name != "c" else "a"])
    assert await _drill(mirrored, "a") == {"/two/a": "SCARCE", "/two/c": "SCARCE"}
    assert await _drill(mirrored, "a", "c", size=1) == {
        "/everywhere": "SCARCE",
        "/two/a": "LOST",
        "/two/b": "SCARCE",
        "/two/c": "LOST",
    }
    await mirrored.change_provider("c", paused=True)
    assert (await _drill(mirrored, "a"))["/two/a"] == "UNREADABLE"
    with pytest.raises(PreconditionFailed, match="resume"):
        await _drill(mirrored, "c")
    with pytest.raises(NotFound):
        await _drill(mirrored, "none")
    with pytest.raises(InvalidArgument):
        await _drill(mirrored)
