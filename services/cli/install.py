"""`dgx-music models install`: the weights of neural models onto this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import answer, answer_json, note
from services.cli.running import progress_bar
from services.errors import CancelledError, EngineUnavailableError, StorageError

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.musicgen.catalogue import PublishedModel
    from services.generation.musicgen.checkpoint.install import Installed

_GB = 1e9

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Such as musicgen-small, which is also the default."),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Another commit or branch of the repository than the pinned one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]


def install(names: Names = None, revision: Revision = None, as_json: AsJson = False) -> None:
    """Download models, or go on with that, or mend damaged ones; print their folders.

    Models of MusicGen: their weights, and what is made with them, are for non-commercial purposes.
    """
    from services.config import load_settings
    from services.generation.musicgen.catalogue import LICENCE_SENTENCE, published_model
    from services.generation.musicgen.checkpoint.checkpoints import missing_package

    models = [published_model(name) for name in names or ["musicgen-small"]]
    settings = load_settings()
    if package := missing_package():
        wanted = " ".join(model.name for model in models)
        raise EngineUnavailableError(
            f"{package} is not installed. `./just install-models {wanted}` installs it, and then "
            "the weights; so do `scripts/setup musicgen` and this command."
        )
    note(LICENCE_SENTENCE)
    done = [_install(model, settings, revision) for model in models]
    if as_json:
        answer_json(
            [
                {
                    "name": model.name,
                    "folder": str(one.folder),
                    "repository": model.repository,
                    "revision": one.revision,
                    "outcome": one.outcome,
                    "downloaded_bytes": one.bytes,
                }
                for model, one in zip(models, done, strict=True)
            ]
        )
    else:
        for one in done:
            answer(str(one.folder))


def _install(model: PublishedModel, settings: Settings, revision: str | None) -> Installed:
    from services.generation.musicgen.checkpoint.install import install as install_model

    with progress_bar(shown=True) as bar:

        def show(have: int, total: int) -> None:
            stage = f"{model.name} {have / _GB:.2f} of {total / _GB:.2f} GB"
            bar(stage, have / total if total else 1.0)

        try:
            installed = install_model(model, settings.models_dir, show, revision=revision)
        except KeyboardInterrupt:
            raise CancelledError(
                f"Stopped. `dgx-music models install {model.name}` goes on where this ended."
            ) from None
    note(_sentence(model, installed, revision))
    _record(model, installed, settings)
    return installed


def _record(model: PublishedModel, installed: Installed, settings: Settings) -> None:
    from services.database import open_database, storage_errors
    from services.library.installed_models import record_installed_model

    facts = model.facts_at(installed.revision)
    try:
        open_database(settings)
        with storage_errors():
            record_installed_model(
                facts, installed.folder, settings.models_dir, revision=installed.revision
            )
    except StorageError as error:
        # The model works without its record.
        note(f"The database has no record of the installation: {error}")


def _sentence(model: PublishedModel, done: Installed, revision: str | None) -> str:
    commit = "" if done.revision is None else f", revision {done.revision[:12]}"
    if done.outcome == "there already":
        return f"{model.name} is installed and whole{commit}."
    if done.outcome == "unverified":
        return (
            f"{model.name} is there, in a folder of yours that does not say what should be in it: "
            f"its contents were not checked. To have the published files, move {done.folder} away "
            "and run this again."
        )
    if done.outcome == "in the cache":
        return f"{model.name} is in your Hugging Face cache{commit}, and is used from there."
    pinned = "" if revision or model.revision else ", which is the newest: none is pinned"
    return f"{model.name} is {done.outcome}{commit}{pinned}: {done.bytes / _GB:.2f} GB came."
