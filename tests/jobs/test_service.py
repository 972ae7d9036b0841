"""Jobs through the real database, real files and a small engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile as sf

from services import storage
from services.config import Settings
from services.errors import (
    CancelledError,
    DGXMusicError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
    OutputError,
    StorageError,
    UnknownGenerationError,
)
from services.generation.engine import (
    Engine,
    EngineFacts,
    GenerationParams,
    Progress,
    Rendered,
    ShouldStop,
)
from services.generation.registry import EngineEntry, Registry
from services.jobs import making
from services.jobs.attempt_token import AttemptToken
from services.jobs.making import JobMaker
from services.jobs.models import parse_request
from services.jobs.service import MusicService

if TYPE_CHECKING:
    from services.library.orders import Order

pytestmark = pytest.mark.integration

FACTS = EngineFacts(
    name="tone",
    version="3",
    description="A sine whose pitch is the seed.",
    output_licence="CC0-1.0",
    sample_rate=44_100,
    channels=1,
    shortest_seconds=1.0,
    longest_seconds=30.0,
)


def silent(_stage: str, _fraction: float) -> None:
    """Ignore the progress."""


def never() -> bool:
    return False


@dataclass
class ToneEngine:
    """A small engine: one sine, and an action while it renders."""

    facts: EngineFacts = FACTS
    meanwhile: Callable[[], None] = field(default=lambda: None)

    def render(
        self, params: GenerationParams, progress: Progress, should_stop: ShouldStop
    ) -> Rendered:
        progress("tone", 0.5)
        self.meanwhile()
        if should_stop():
            raise CancelledError("Cancelled.")
        time = np.arange(round(params.duration_seconds * FACTS.sample_rate)) / FACTS.sample_rate
        wave = 0.5 * np.sin(2 * np.pi * (200 + params.seed % 1000) * time, dtype=np.float64)
        return Rendered(
            audio=wave[None].astype(np.float32),
            sample_rate=FACTS.sample_rate,
            seed=params.seed,
            tempo_bpm=120.0,
            understood={"genre": "test"},
        )


@pytest.fixture
def engine() -> ToneEngine:
    return ToneEngine()


@pytest.fixture
def service(tmp_path: Path, engine: Engine) -> MusicService:
    settings = Settings(
        DATABASE_URL=f"sqlite:///{tmp_path / 'db' / 'generations.db'}",
        output_dir=tmp_path / "outputs",
    )
    registry = Registry({"tone": EngineEntry(FACTS, lambda: engine, lambda: None)})
    return MusicService(settings, registry)


def accept(service: MusicService, **fields: Any) -> Order:
    """Write the row of a job that is not queued."""
    return JobMaker(service).prepare(service.check(parse_request(**fields)))


def status_of(generation_id: str) -> str:
    with storage.get_session() as session:
        row = storage.get_generation(session, generation_id)
        assert row is not None
        return row.status


def files(service: MusicService) -> list[Path]:
    return [path for path in service.settings.output_dir.rglob("*") if path.is_file()]


def test_the_test_engine_satisfies_the_protocol(engine):
    assert isinstance(engine, Engine)


def test_a_job_becomes_a_mastered_file_and_a_completed_row(service):
    stages: list[tuple[str, float]] = []
    order = accept(service, prompt="a tone", duration=2, seed=42)
    assert status_of(order.generation_id) == "pending"

    def record(stage: str, fraction: float) -> None:
        stages.append((stage, fraction))

    job = JobMaker(service).run(order, record, never)
    assert job.status == "completed"
    assert job.metadata["seed"] == job.seed == 42
    assert job.metadata["engine_version"] == "3"
    assert job.metadata["genre"] == "test"
    assert abs(job.metadata["integrated_lufs"] + 16.0) <= 0.1
    assert job.retry_count == 0
    analysis = service.find_analysis(job.job_id)
    assert analysis is not None
    assert abs(analysis["integrated_lufs"] - job.metadata["integrated_lufs"]) < 0.01
    assert 0.0 < analysis["rms_energy"] < analysis["peak_amplitude"] <= 1.0
    assert sf.info(job.file).frames == 2 * 44_100
    assert Path(job.file).name == f"{job.job_id}.wav"
    fractions = [fraction for _, fraction in stages]
    assert fractions == sorted(fractions)
    assert stages[-1] == ("completed", 1.0)


def test_a_drawn_seed_is_reported_and_two_draws_differ(service):
    orders = [accept(service, prompt="a tone", duration=1) for _ in range(2)]
    jobs = [JobMaker(service).run(order, silent, never) for order in orders]
    assert [job.seed for job in jobs] == [order.params.seed for order in orders]
    assert jobs[0].seed != jobs[1].seed


def test_sampling_values_that_differ_from_the_defaults_are_recorded(service):
    order = accept(service, prompt="a tone", top_k=50, temperature=1.0)
    assert order.params.top_k == 50
    metadata = service.get(order.generation_id).metadata
    assert metadata["top_k"] == 50
    assert "temperature" not in metadata


@pytest.mark.parametrize("seconds", [30.5, 31])
def test_a_duration_past_the_engine_s_longest_is_refused_before_a_row(service, seconds):
    with pytest.raises(InvalidRequestError, match="from 1 to 30 seconds with the model 'tone'"):
        accept(service, prompt="a tone", duration=seconds)
    assert service.history().jobs == []


def test_an_engine_that_cannot_be_loaded_leaves_a_failed_row_with_the_reason(service):
    order = accept(service, prompt="a tone")

    def load():
        raise EngineUnavailableError("Its weights are damaged.")

    service.registry = Registry({"tone": EngineEntry(FACTS, load, lambda: None)})
    with pytest.raises(EngineUnavailableError, match="damaged"):
        JobMaker(service).run(order, silent, never)
    job = service.get(order.generation_id)
    assert (job.status, job.error_message) == ("failed", "Its weights are damaged.")


def test_an_engine_that_fails_leaves_a_failed_row_with_the_reason(service, engine):
    engine.meanwhile = lambda: (_ for _ in ()).throw(ZeroDivisionError("no wave"))
    order = accept(service, prompt="a tone")
    with pytest.raises(EngineError, match="tone failed: ZeroDivisionError: no wave"):
        JobMaker(service).run(order, silent, never)
    job = service.get(order.generation_id)
    assert job.status == "failed"
    assert job.error_message is not None
    assert "no wave" in job.error_message
    assert files(service) == []


def test_an_engine_that_returns_nan_fails_the_job(service, engine):
    def broken_render(params, progress, should_stop):
        good = ToneEngine().render(params, progress, should_stop)
        return replace(good, audio=np.full_like(good.audio, np.nan))

    engine.render = broken_render
    order = accept(service, prompt="a tone")
    with pytest.raises(DGXMusicError):
        JobMaker(service).run(order, silent, never)
    assert status_of(order.generation_id) == "failed"
    assert files(service) == []


@pytest.mark.parametrize("stop_at", ["tone", "mastering"])
def test_a_stopped_job_is_cancelled_and_has_no_file(service, stop_at):
    seen: list[str] = []
    order = accept(service, prompt="a tone", duration=1)
    with pytest.raises(CancelledError):
        JobMaker(service).run(order, lambda stage, _: seen.append(stage), lambda: stop_at in seen)
    assert status_of(order.generation_id) == "cancelled"
    assert files(service) == []


def test_a_job_that_is_not_completed_has_no_analysis(service):
    order = accept(service, prompt="a tone")
    assert service.find_analysis(order.generation_id) is None


def test_a_job_interrupted_by_ctrl_c_is_cancelled(service, engine):
    engine.meanwhile = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    order = accept(service, prompt="a tone")
    with pytest.raises(KeyboardInterrupt):
        JobMaker(service).run(order, silent, never)
    assert status_of(order.generation_id) == "cancelled"


def test_a_job_cancelled_by_another_process_publishes_nothing(service, engine):
    order = accept(service, prompt="a tone")

    def cancel() -> None:
        with storage.get_session() as session:
            assert storage.cancel_generation(session, order.generation_id)

    engine.meanwhile = cancel
    with pytest.raises(CancelledError):
        JobMaker(service).run(order, silent, never)
    assert status_of(order.generation_id) == "cancelled"
    assert files(service) == []


def killed_process_token() -> str:
    program = (
        "from services.jobs.attempt_token import AttemptToken\n"
        "print(AttemptToken.for_this_process())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def test_a_job_whose_process_was_killed_is_failed_when_the_service_opens_next(service):
    killed, running = (accept(service, prompt="a tone") for _ in range(2))
    with storage.get_session() as session:
        assert storage.claim_generation(session, killed.generation_id, killed_process_token())
        ours = str(AttemptToken.for_this_process())
        assert storage.claim_generation(session, running.generation_id, ours)
    again = MusicService(service.settings, service.registry)
    job = again.get(killed.generation_id)
    assert job.status == "failed"
    assert "killed" in str(job.error_message)
    assert status_of(running.generation_id) == "processing"


def test_an_interrupted_job_leaves_no_unfinished_row(service, monkeypatch):
    checked = service.check(parse_request(prompt="a tone", duration=1))
    job = JobMaker(service).make(checked, silent, never)
    assert job.status == "completed"

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "run_job", interrupt)
    with pytest.raises(KeyboardInterrupt):
        JobMaker(service).make(checked, silent, never)
    assert service.history(limit=1).jobs[0].status == "cancelled"


def test_a_signal_after_the_commit_keeps_the_published_file(service, monkeypatch):
    real = storage.publish_generation
    order = accept(service, prompt="a tone", duration=1)

    def publish_and_interrupt(session, *arguments, **named):
        real(session, *arguments, **named)
        session.commit()
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "publish_generation", publish_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        JobMaker(service).run(order, silent, never)
    job = service.get(order.generation_id)
    assert job.status == "completed"
    assert Path(str(job.file)).is_file()


def test_a_signal_before_the_commit_leaves_no_file(service, monkeypatch):
    def interrupt(*_arguments, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "publish_generation", interrupt)
    order = accept(service, prompt="a tone", duration=1)
    with pytest.raises(KeyboardInterrupt):
        JobMaker(service).run(order, silent, never)
    assert status_of(order.generation_id) == "cancelled"
    assert files(service) == []


def test_the_first_of_two_failures_is_reported(service, engine, monkeypatch):
    def locked(*_arguments):
        raise storage.DatabaseLockedError("The database is locked.")

    def fail() -> None:
        monkeypatch.setattr(storage, "fail_generation", locked)
        raise ZeroDivisionError("no wave")

    engine.meanwhile = fail
    order = accept(service, prompt="a tone")
    with pytest.raises(EngineError, match="no wave"):
        JobMaker(service).run(order, silent, never)


def test_a_job_is_run_once(service):
    order = accept(service, prompt="a tone", duration=1)
    JobMaker(service).run(order, silent, never)
    with pytest.raises(UnknownGenerationError, match="not waiting"):
        JobMaker(service).run(order, silent, never)
    assert status_of(order.generation_id) == "completed"


def test_a_file_that_cannot_be_written_fails_the_job(service, engine):
    order = accept(service, prompt="a tone")

    def block() -> None:
        year = service.settings.output_dir / order.file_path.split("/")[0]
        year.write_text("in the way")

    engine.meanwhile = block
    with pytest.raises(OutputError, match="Could not write WAV file"):
        JobMaker(service).run(order, silent, never)
    assert status_of(order.generation_id) == "failed"


def test_too_little_disk_space_is_reported_before_rendering(service, monkeypatch):
    import shutil

    usage = shutil.disk_usage(service.settings.output_dir.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(OutputError, match=r"1 MiB free .* needs 9 MiB.*DGX_MUSIC_OUTPUT_DIR"):
        accept(service, prompt="a tone")
    assert service.history().jobs == []


def test_a_generation_is_found_by_the_start_of_its_id(service):
    orders = [accept(service, prompt="a tone") for _ in range(20)]
    chosen = orders[3].generation_id
    assert service.get(chosen).job_id == chosen
    assert service.get(chosen[:13].upper()).job_id == chosen
    with storage.get_session() as session:
        for end in ("1", "2"):
            storage.create_generation(
                session, "twin", "tone", 1.0, 44_100, 1, "x.wav",
                generation_id=f"aaaaaaaa-0000-4000-8000-00000000000{end}",
            )  # fmt: skip
    with pytest.raises(UnknownGenerationError, match="Several"):
        service.get("aaaaaaaa-0000")
    for nothing in ("", "zzzz", "%", "_", chosen + "0"):
        with pytest.raises(UnknownGenerationError, match="no generation"):
            service.get(nothing)


def test_history_pages_searches_and_filters(service):
    for word in ("red", "green", "blue"):
        accept(service, prompt=f"a {word} tone")
    first = service.history(limit=2)
    second = service.history(limit=2, cursor=first.next_cursor)
    assert [job.prompt for job in first.jobs + second.jobs] == [
        "a blue tone", "a green tone", "a red tone",
    ]  # fmt: skip
    assert second.next_cursor is None
    assert [job.prompt for job in service.history(search="GREEN tone").jobs] == ["a green tone"]
    assert service.history(status="completed").jobs == []
    assert service.history(model="other").jobs == []
    with pytest.raises(InvalidRequestError, match="status"):
        service.history(status="perfect")
    with pytest.raises(InvalidRequestError, match="cursor"):
        service.history(cursor="nonsense")


def test_every_job_can_be_written_as_json(service):
    order = accept(service, prompt="a tone", duration=1)
    job = JobMaker(service).run(order, silent, never)
    again = json.loads(job.model_dump_json())
    assert again["job_id"] == order.generation_id
    assert again["created_at"].endswith("Z")


def test_silence_is_delivered_and_flagged(service, engine):
    def silence(params, progress, should_stop):
        good = ToneEngine().render(params, progress, should_stop)
        return replace(good, audio=np.zeros_like(good.audio))

    engine.render = silence
    order = accept(service, prompt="a tone", duration=1)
    job = JobMaker(service).run(order, silent, never)
    assert job.status == "completed"
    assert "integrated_lufs" not in job.metadata
    assert job.metadata["flags"]


def test_unknown_and_unavailable_models_have_different_errors(service):
    with pytest.raises(EngineUnavailableError, match=r"no model 'tune'.*Did you mean 'tone'"):
        accept(service, prompt="a tone", model="tune")
    entry = EngineEntry(FACTS, ToneEngine, lambda: "its weights are missing.")
    service.registry = Registry({"tone": entry})
    with pytest.raises(EngineUnavailableError, match=r"cannot run here: its weights are missing"):
        accept(service, prompt="a tone", model="tone")
    with pytest.raises(EngineUnavailableError, match=r"No model can run here.*weights"):
        accept(service, prompt="a tone")


def test_a_database_that_cannot_be_used_is_a_storage_error(tmp_path):
    path = tmp_path / "notes.db"
    path.write_bytes(b"not a database" * 1000)
    settings = Settings(DATABASE_URL=f"sqlite:///{path}")
    with pytest.raises(StorageError, match=r"notes\.db"):
        MusicService(settings, Registry({}))
