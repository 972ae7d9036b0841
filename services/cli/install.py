"""`dgx-music models install` and `add`: the weights of neural models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import answer, answer_json, note
from services.cli.options import AsJson
from services.cli.running import progress_bar
from services.errors import CancelledError, EngineUnavailableError, StorageError
from services.installation import name_install_command

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.engine import EngineFacts
    from services.generation.musicgen.catalogue import PublishedModel
    from services.generation.musicgen.checkpoint.install import Installed

_GB = 1e9

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Models to install.", show_default="musicgen-small"),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="COMMIT",
        help="Commit or branch of the model's repository.",
        show_default="the tested one",
    ),
]


def install(names: Names = None, revision: Revision = None, as_json: AsJson = False) -> None:
    """Download models; resume or repair an earlier download.

    The weights of MusicGen, and music made with them, are for non-commercial use only.
    """
    from services.config import load_settings
    from services.generation.musicgen.catalogue import LICENCE_SENTENCE, published_model
    from services.generation.musicgen.checkpoint.checkpoints import missing_package

    models = [published_model(name) for name in names or ["musicgen-small"]]
    settings = load_settings()
    if package := missing_package():
        command = name_install_command(*(model.name for model in models), needs_packages=True)
        raise EngineUnavailableError(
            f"{package} is not installed. To install it together with the weights: {command}"
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


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name in requests.")],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Its files, as of a published model.")
    ],
    licence: Annotated[
        str,
        typer.Option(
            "--licence",
            metavar="SPDX",
            help="Licence of the music it makes, as its owner states it. A model trained on from "
            "Meta's weights stays CC-BY-NC-4.0.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a model added under this name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add a model of your own that has MusicGen's architecture.

    Its files stay where they are, and are only read from safetensors.

    Example: dgx-music models add my-tune ~/models/my-tune --licence CC-BY-NC-4.0
    """
    from services.config import load_settings
    from services.generation.musicgen.checkpoint.added import add_model

    settings = load_settings()
    model = add_model(name, folder, settings.models_dir, licence=licence, force=force)
    link = settings.models_dir / model.name
    _record(model.facts, model.revision, link, settings)
    note(
        f"{model.name} was added, {model.licence}. Restart running servers and workers. To remove "
        f"it, delete {link} and its record beside it."
    )
    if as_json:
        answer_json({"name": model.name, "folder": str(folder), "version": model.facts.version})
    else:
        answer(model.name)


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
                f"Stopped. To resume: dgx-music models install {model.name}"
            ) from None
    note(_describe_outcome(model, installed, revision))
    revision = installed.revision
    _record(model.facts_at(revision), revision, installed.folder, settings)
    return installed


def _record(facts: EngineFacts, revision: str | None, folder: Path, settings: Settings) -> None:
    from services.database import open_database, storage_errors
    from services.library.installed_models import record_installed_model

    try:
        open_database(settings)
        with storage_errors():
            record_installed_model(facts, folder, settings.models_dir, revision=revision)
    except StorageError as error:
        # The model works without its record.
        note(f"The database has no record of the installation: {error}")


def _describe_outcome(model: PublishedModel, done: Installed, revision: str | None) -> str:
    commit = "" if done.revision is None else f", revision {done.revision[:12]}"
    if done.outcome == "there already":
        return f"{model.name} is installed and complete{commit}."
    if done.outcome == "unverified":
        return (
            f"{model.name} is a folder of yours without a list of its files, so they were not "
            f"checked. To install the published files, move {done.folder} away and try again."
        )
    if done.outcome == "in the cache":
        return f"{model.name} is used from your Hugging Face cache{commit}."
    pinned = "" if revision or model.revision else ", the newest, as none is pinned"
    return f"{model.name} is {done.outcome}{commit}{pinned}: {done.bytes / _GB:.2f} GB downloaded."
