"""`dgx-music doctor`: checks of this machine, each with what to do if it fails."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import typer

from services import __version__
from services.cli.console import answer, answer_json
from services.cli.options import AsJson
from services.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from services.config import Settings

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    verdict: Verdict
    detail: str


def doctor(as_json: AsJson = False) -> None:
    """Check everything that DGX Music needs on this machine.

    The exit code is 1 if a check fails.
    """
    findings = examine()
    if as_json:
        answer_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            answer(f"{finding.verdict:<4}  {finding.name:<16}  {finding.detail}")
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Return all findings; nothing is changed."""
    from services.config import load_settings

    findings = [
        Finding("dgx-music", "ok", __version__),
        Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}"),
    ]
    try:
        settings = load_settings()
    except SettingsError as error:
        return [*findings, Finding("settings", "fail", str(error))]
    return [
        *findings,
        _home(settings),
        _settings(settings),
        *_database(settings),
        _disk(settings),
        _open_files(),
        *_proxy(settings),
        *_bucket(settings),
        _gpu(),
        *_engines(settings),
        *_installed_models(settings),
    ]


def _open_files() -> Finding:
    from services.machine.open_files import LOW_LIMIT, read_open_files_limits

    _, hard = read_open_files_limits()
    if hard < LOW_LIMIT:
        return Finding(
            "open files",
            "warn",
            f"A process may open {hard} files, so that a server holds few connections. Raise the "
            f"hard limit to {LOW_LIMIT} or more (ulimit -Hn, LimitNOFILE of systemd).",
        )
    return Finding("open files", "ok", f"A process may open {hard}.")


def _install_command(name: str) -> str:
    from services.generation.musicgen.catalogue import MODELS

    if name in MODELS:
        return MODELS[name].install_command
    return f"dgx-music models add {name} FOLDER --licence SPDX --force"


def _proxy(settings: Settings) -> list[Finding]:
    """Return nothing where no setting speaks of a proxy before the API."""
    from services.api.guard.addresses import is_loopback_host

    # From other machines a server on loopback is reached through a proxy only.
    is_behind_one = settings.api_allowed_hosts and is_loopback_host(settings.api_host)
    if not settings.api_root_path and not is_behind_one:
        return []
    if settings.api_trusted_proxies:
        trusted = ", ".join(settings.api_trusted_proxies)
        return [Finding("proxy", "ok", f"X-Forwarded-For of {trusted} names the client.")]
    return [
        Finding(
            "proxy",
            "warn",
            "Behind a proxy all clients have its address, and from this machine no rate limit. Set "
            "DGX_MUSIC_API_TRUSTED_PROXIES to the proxy's address, such as 127.0.0.1.",
        )
    ]


def _home(settings: Settings) -> Finding:
    from services.config import default_home, variable_of
    from services.machine.space import nearest_existing

    is_set = "home" in settings.model_fields_set
    reason = variable_of("home") if is_set else default_home()[1]
    folder = nearest_existing(settings.home)
    if not folder.is_dir():
        return Finding("home", "fail", f"{folder} is not a folder; set {variable_of('home')}")
    return Finding("home", "ok", f"{settings.home} ({reason})")


def _settings(settings: Settings) -> Finding:
    from services.config import ENV_FILE, PREFIX

    file = settings.home / ENV_FILE
    with suppress(OSError):
        here = ENV_FILE.absolute()
        if here != file and PREFIX in here.read_text(encoding="utf-8", errors="replace"):
            return Finding("settings", "warn", f"{here} is not read; move it to {file}")
    from_file = f" and {file}" if file.is_file() else f"; there is no {file}"
    return Finding("settings", "ok", f"from the environment{from_file}")


def _database(settings: Settings) -> list[Finding]:
    from services import storage
    from services.database import open_database, storage_errors
    from services.errors import StorageError

    try:
        with storage_errors():
            # Opening would create the file; a check must not.
            file = storage.database_file(settings.database_url)
            if file is not None and not os.path.lexists(file):
                detail = f"{file} does not exist yet; the first `generate` creates it"
                return [_sqlite(), Finding("database", "ok", detail)]
            open_database(settings)
            facts = storage.describe_database()
    except StorageError as error:
        return [_sqlite(), Finding("database", "fail", str(error))]
    journal = f", journal {facts['journal_mode']}" if "journal_mode" in facts else ""
    detail = (
        f"{facts['name']}: {facts['kind']} {facts['server_version']}{journal}, "
        f"revision {facts['revision']}, search by {facts['search']}"
    )
    return [_sqlite(), Finding("database", "ok", detail)]


def _sqlite() -> Finding:
    from services import storage

    facts = storage.describe_sqlite_library()
    why = "" if facts["wal_is_safe"] else " (it lacks the WAL-reset fix)"
    search = "" if facts["fts5"] else "; without FTS5, so search reads every prompt"
    journal = f"journal mode {facts['journal_mode']}{why}"
    return Finding("sqlite", "ok", f"{facts['version']} ({facts['library']}), {journal}{search}")


def _disk(settings: Settings) -> Finding:
    from services.machine.space import free_bytes, nearest_existing

    folder = settings.output_dir
    parent = nearest_existing(folder)
    try:
        free = free_bytes(folder)
    except OutputError as error:
        return Finding("output", "fail", str(error))
    detail = f"{free / 2**30:.1f} GiB free for {folder}"
    if not os.access(parent, os.W_OK):
        return Finding("output", "fail", f"{parent} is not writable; set DGX_MUSIC_OUTPUT_DIR")
    return Finding("output", "ok" if free >= settings.disk_low_bytes else "warn", detail)


def _bucket(settings: Settings) -> list[Finding]:
    from services.errors import OutputError
    from services.library.store import open_store

    if settings.file_store is None:
        return []
    try:
        open_store(settings).check()
    except (OutputError, SettingsError) as error:
        return [Finding("files", "fail", str(error))]
    return [Finding("files", "ok", f"{settings.file_store} responds")]


def _gpu() -> Finding:
    from services.machine.gpu import detect_gpus

    report = detect_gpus()
    if report.gpus:
        return Finding("gpu", "ok", "; ".join(gpu.summary for gpu in report.gpus))
    reason = (report.reason or "").removesuffix(".")
    if report.is_broken:
        return Finding("gpu", "warn", reason)
    return Finding("gpu", "ok", f"{reason[:1].lower()}{reason[1:]}; the composer needs none")


def _engines(settings: Settings) -> list[Finding]:
    from services.generation.registry import default_registry

    available, uninstalled, faulty = [], [], []
    for entry in default_registry(settings):
        reason = entry.why_unavailable()
        name = f"engine {entry.facts.name}"
        if reason is None:
            available.append(Finding(name, "ok", entry.facts.description))
        elif entry.is_installed_apart:
            uninstalled.append(entry.facts.name)
        else:
            faulty.append((name, reason))
    # Without any engine there is no music.
    verdict: Verdict = "warn" if available else "fail"
    findings = [*available, *(Finding(name, verdict, reason) for name, reason in faulty)]
    if uninstalled:
        which = f"{', '.join(uninstalled)}; `dgx-music models list` shows what each needs"
        findings.append(Finding("not installed", "ok", which))
    return findings


def _installed_models(settings: Settings) -> list[Finding]:
    """Return what the database records about each model that was installed here."""
    from services import storage
    from services.database import storage_errors
    from services.errors import StorageError

    if not storage.is_open(settings.database_url):
        return []
    try:
        with storage_errors(), storage.get_session(read_only=True) as session:
            models = storage.get_models(session)
    except StorageError as error:
        return [Finding("models", "warn", str(error))]
    findings = []
    for model in models:
        folder = settings.models_dir / model.path
        detail = (
            f"commit {model.revision[:12]}, {model.size_bytes / 1e9:.2f} GB, weights under "
            f"{model.licence}, installed {model.installed_at:%Y-%m-%d}"
        )
        if folder.is_dir():
            findings.append(Finding(f"model {model.name}", "ok", detail))
        else:
            gone = f"{folder} is gone; `{_install_command(model.name)}` brings it back"
            findings.append(Finding(f"model {model.name}", "warn", gone))
    return findings
