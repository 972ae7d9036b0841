"""Settings: the environment, then `.env` of the home folder, then the defaults below.

Nothing is read at import; `load_settings()` reads everything once and says which variable is wrong.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.errors import SettingsError

PREFIX = "DGX_MUSIC_"
ENV_FILE = Path(".env")
"""Relative to the home folder. A `.env` of the current folder may belong to another program, whose
DATABASE_URL is not ours to use."""

_DATABASE_FILE = Path("data/generations.db")
_CHECKOUT_FILES = ("pyproject.toml", "justfile")

_SQLITE_FILE = re.compile(r"(sqlite(?:\+pysqlite)?:///)(?!:memory:|file:)([^?]+)(.*)", re.DOTALL)
_BUCKET = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,62}(/[A-Za-z0-9._=+@-]+)*/?")

BitDepth = Literal["PCM_16", "PCM_24", "PCM_32", "FLOAT"]
CpuPrecision = Literal["auto", "int8", "fp32"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogFormat = Literal["auto", "text", "json"]


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _off(value: object) -> object:
    return None if str(value).strip().lower() == "off" else value


def _bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value) or {".", ".."} & set(value.split("/")):
        raise ValueError("must be s3://bucket or s3://bucket/prefix")
    return value.rstrip("/")


def _folder(value: str | Path) -> Path:
    try:
        return Path(_not_blank(str(value))).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, and there is no such home folder") from None


def _home(value: Path) -> Path:
    if "?" in str(value):
        raise ValueError("must not contain a question mark, which ends the path of a database URL")
    return value.absolute()


def _in_home(value: Path, info: ValidationInfo) -> Path:
    # No home: it has an error of its own.
    home: Path = info.data.get("home", Path())
    return home / value


def _database_in_home(value: str, info: ValidationInfo) -> str:
    found = _SQLITE_FILE.fullmatch(value)
    if found is None:
        return value
    scheme, path, options = found.groups()
    return f"{scheme}{_in_home(_folder(path), info)}{options}"


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _host_name(value: str) -> str:
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if value != "*" and not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", bare) and ":" not in bare:
        raise ValueError("must be host names or addresses, joined by commas")
    if ":" in bare:
        try:
            bare = str(ipaddress.IPv6Address(bare))
        except ValueError:
            raise ValueError("must be names without a scheme and a port") from None
    return bare.lower()


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError("must be addresses or networks as 10.0.0.0/8, joined by commas") from None


def _sendable(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be letters, digits and signs of ASCII without spaces")
    return value


def find_checkout(package: Path) -> Path | None:
    """Return the checkout whose `services` folder `package` is; None for an installed wheel."""
    root = package.parent
    return root if all((root / name).is_file() for name in _CHECKOUT_FILES) else None


def default_home() -> tuple[Path, str]:
    """Return the home folder where `DGX_MUSIC_HOME` is not set, and in words why it is that one."""
    checkout = find_checkout(Path(__file__).parent)
    if checkout is not None:
        return checkout, "the checkout"
    # The current folder may be deleted or unreadable.
    with suppress(OSError):
        here = Path.cwd()
        if (here / _DATABASE_FILE).is_file():
            return here, f"the current folder, which has {_DATABASE_FILE}"
    import platformdirs

    return platformdirs.user_data_path("dgx-music", appauthor=False), "your data folder"


class HomeSettings(BaseSettings):
    """The home folder: every other setting may be in its `.env`, or relative to it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )

    home: Annotated[Path, BeforeValidator(_folder), AfterValidator(_home)] = Field(
        default_factory=lambda: default_home()[0],
        description="Folder of the database, the music, the models and `.env`; environment only.",
    )


class Settings(HomeSettings):
    """Every setting; `docs/settings.md` is made from the descriptions.

    Paths are absolute: a relative one is taken from `home`, wherever the setting stands.
    """

    database_url: Annotated[str, AfterValidator(_not_blank), AfterValidator(_database_in_home)] = (
        Field(
            f"sqlite:///{_DATABASE_FILE}",
            validation_alias="DATABASE_URL",
            description="SQLite file or PostgreSQL server that keeps the generations.",
        )
    )
    database_timeout_seconds: float = Field(
        30.0, gt=0.0, le=3600.0, description="How long a locked database is waited for."
    )
    output_dir: Annotated[Path, BeforeValidator(_folder), AfterValidator(_in_home)] = Field(
        Path("data/outputs"),
        description="Folder of the audio files, by date: YYYY/MM/DD/<id>.wav.",
    )
    file_store: Annotated[str, AfterValidator(_bucket)] | None = Field(
        None,
        description="Bucket of the finished files, `s3://bucket/prefix`, for API and workers on "
        "different machines (docs/files.md); none: the output folder.",
    )
    file_cache_mib: int = Field(
        1024,
        ge=0,
        description="What converted files and copies of a bucket's may take in the output folder.",
    )
    model_name: Annotated[str, AfterValidator(_not_blank)] = Field(
        "auto", description="Engine to use when a request names none; `auto` takes the best here."
    )
    models_dir: Annotated[Path, BeforeValidator(_folder), AfterValidator(_in_home)] = Field(
        Path("data/models"),
        description="Folder of the weights of neural engines, one folder a model.",
    )
    use_gpu: bool = Field(True, description="Let neural engines use a GPU when there is one.")
    cpu_precision: CpuPrecision = Field(
        "auto",
        description="Arithmetic of neural engines on the CPU: `fp32` is exact, `int8` several "
        "times faster; `auto` is `int8` where the model passes its check.",
    )
    target_lufs: Annotated[float | None, BeforeValidator(_off)] = Field(
        -16.0,
        ge=-40.0,
        le=-6.0,
        description="Integrated loudness of what is delivered, LUFS; `off` keeps every level.",
    )
    true_peak_dbtp: float = Field(
        -1.0, ge=-12.0, le=0.0, description="Highest true peak of what is delivered, dBTP."
    )
    bit_depth: BitDepth = Field("PCM_16", description="Sample format of the WAV file.")
    max_retries: int = Field(
        3, ge=0, le=10, description="How often a failed job is tried again by a worker."
    )
    retry_delay_seconds: float = Field(
        1.0, ge=0.0, le=3600.0, description="Wait before the first retry; it doubles every time."
    )
    worker_concurrency: int = Field(
        1,
        ge=1,
        le=64,
        description="Jobs that one worker makes at once: each in a process of its own, or together "
        "in one where the engine can (docs/queue.md).",
    )
    worker_ttl_seconds: float = Field(
        30.0,
        ge=1.0,
        le=3600.0,
        description="A worker that was not heard of for so long is taken for dead, and its jobs go "
        "to another.",
    )
    drain_seconds: float = Field(
        60.0,
        ge=0.0,
        le=3600.0,
        description="What a worker that is told to stop has to finish its jobs; what is not "
        "finished by then goes back to the queue.",
    )
    engine_idle_seconds: float = Field(
        600.0, gt=0.0, description="A worker ends an engine that had nothing to do for so long."
    )
    engine_stall_seconds: float = Field(
        300.0, gt=0.0, description="A worker kills an engine that made no progress for so long."
    )
    job_deadline_seconds: float = Field(
        3600.0, gt=0.0, description="A worker kills an engine that works on one job for so long."
    )
    input_max_bytes: int = Field(
        134_217_728,
        ge=65_536,
        le=4_294_967_296,
        description="Longest audio file that a request may bring: a melody, or what to go on from.",
    )
    input_max_seconds: float = Field(
        600.0, gt=0.0, le=86_400.0, description="Longest music in such a file."
    )
    queue_limit: int = Field(
        10_000, ge=1, le=1_000_000, description="Jobs that may wait; more are refused."
    )
    disk_low_bytes: int = Field(
        5 * 2**30, ge=0, description="Free space under which the health check says degraded."
    )
    disk_floor_bytes: int = Field(
        2**30, ge=0, description="Free space under which no new job is taken into the queue."
    )
    queue_slow_seconds: float = Field(
        600.0,
        gt=0.0,
        description="The health check says degraded when a job has waited for longer.",
    )
    rate_limit_enabled: bool = Field(True, description="Limit requests for each API client.")
    rate_limit_per_minute: int = Field(
        10, ge=1, description="Generation requests a minute for each API client."
    )
    api_host: str = Field("127.0.0.1", description="Address the API listens on.")
    api_port: int = Field(8000, ge=1, le=65535, description="Port the API listens on.")
    api_key: Annotated[SecretStr | None, AfterValidator(_sendable)] = Field(
        None,
        description="The operator's key, which sees what all clients made; "
        "`dgx-music keys` makes those of clients.",
    )
    api_allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_host_name)], ...], NoDecode, BeforeValidator(_listed)
    ] = Field(
        (),
        description="Names, joined by commas, that the API answers to besides localhost and its "
        "own address; `*` is every name.",
    )
    api_trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_listed)
    ] = Field(
        (),
        description="Addresses or networks, joined by commas, of proxies whose `X-Forwarded-For` "
        "tells the client's address.",
    )
    api_max_body_bytes: int = Field(
        65536, ge=1024, le=16_777_216, description="Longest body of a request."
    )
    log_level: LogLevel = Field("WARNING", description="Least level of what is logged on stderr.")
    log_format: LogFormat = Field(
        "auto",
        description="`text` or `json`, a line an event; `auto` is JSON for a server whose stderr "
        "is no terminal.",
    )


def variable_of(field_name: str) -> str:
    """The environment variable behind a field of `Settings`."""
    alias = Settings.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{field_name.upper()}"


def load_settings(env_file: Path | None = ENV_FILE) -> Settings:
    """Read the settings from the environment and `env_file`.

    Args:
        env_file: relative to the home folder, or absolute; None reads the environment only.

    Raises:
        SettingsError: a value is not possible, or a DGX_MUSIC_ variable is not a setting.
    """
    try:
        if env_file is not None:
            env_file = HomeSettings().home / env_file
        _refuse_unknown_variables(env_file)
        # pydantic-settings takes _env_file at run time; its stub of __init__ knows it too.
        return Settings(_env_file=env_file, _env_file_encoding="utf-8")  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    sentences = []
    for problem in error.errors(include_url=False):
        location = str(problem["loc"][0])
        name = variable_of(location) if location in Settings.model_fields else location
        reason = problem["msg"].removeprefix("Value error, ")
        shown = "" if name.endswith("_KEY") else f", not {problem['input']!r}"
        sentences.append(f"{name}: {reason[0].lower()}{reason[1:]}{shown}.")
    return " ".join(sentences)


def _refuse_unknown_variables(env_file: Path | None) -> None:
    known = {variable_of(name) for name in Settings.model_fields}
    in_file = _names_in(env_file)
    if variable_of("home") in map(str.upper, in_file):
        raise SettingsError(
            f"{env_file}: DGX_MUSIC_HOME says where this file is. Set it in the environment."
        )
    for name in sorted({*os.environ, *in_file}):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper.startswith(f"{PREFIX}TEST_") or upper in known:
            continue
        bare = upper.removeprefix(PREFIX)
        near = [bare] if bare in known else difflib.get_close_matches(upper, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else " docs/settings.md lists them."
        raise SettingsError(f"{name} is not a setting.{hint}")


def _names_in(env_file: Path | None) -> list[str]:
    if env_file is None or not env_file.exists():
        return []
    if not env_file.is_file():
        raise SettingsError(f"{env_file} is not a file. Move it away, or make it one.")
    try:
        with env_file.open(encoding="utf-8-sig") as lines:
            bindings = list(parse_stream(lines))
    except UnicodeDecodeError:
        raise SettingsError(f"{env_file} is not UTF-8 text. Save it as UTF-8.") from None
    except OSError as error:
        raise SettingsError(f"{env_file} cannot be read: {error.strerror}.") from None
    for binding in bindings:
        if binding.error:
            line = binding.original.line
            raise SettingsError(f"{env_file}, line {line}: this is not NAME=value. Mend the line.")
    return [binding.key for binding in bindings if binding.key]
