"""Settings: the environment, then `.env` of the home folder, then the defaults below.

Importing this module reads nothing; `load_settings()` reads everything once.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

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
from services.installation import find_checkout
from services.paths import hide_paths

PREFIX = "DGX_MUSIC_"
ENV_FILE = Path(".env")
"""In the home folder. The current folder's `.env` may belong to another program, with a
DATABASE_URL of its own."""

_DATABASE_FILE = Path("data/generations.db")

_SQLITE_FILE = re.compile(r"(sqlite(?:\+pysqlite)?:///)(?!:memory:|file:)([^?]+)(.*)", re.DOTALL)
_BUCKET = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,62}(/[A-Za-z0-9._=+@-]+)*/?")

BitDepth = Literal["PCM_16", "PCM_24", "PCM_32", "FLOAT"]
CpuPrecision = Literal["auto", "int8", "fp32"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogFormat = Literal["auto", "text", "json"]


def _require_text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _parse_off(value: object) -> object:
    return None if str(value).strip().lower() == "off" else value


def _parse_bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value) or {".", ".."} & set(value.split("/")):
        raise ValueError("must be s3://bucket or s3://bucket/prefix")
    return value.rstrip("/")


def _parse_folder(value: str | Path) -> Path:
    try:
        return Path(_require_text(str(value))).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, and there is no such home folder") from None


def _resolve_home(value: Path) -> Path:
    # A question mark ends the path in a database URL.
    if "?" in str(value):
        raise ValueError("must not contain a question mark")
    try:
        return value.absolute()
    except OSError:
        raise ValueError("is relative, and the current folder does not exist") from None


def _resolve_path(value: Path, info: ValidationInfo) -> Path:
    # An invalid home is missing here, and is reported by its own error.
    home: Path = info.data.get("home", Path())
    return home / value


def _resolve_database(value: str, info: ValidationInfo) -> str:
    found = _SQLITE_FILE.fullmatch(value)
    if found is None:
        return value
    scheme, path, options = found.groups()
    folder = _parse_folder(path)
    if folder.is_absolute() and not path.startswith("~"):
        return value
    # The path of a URL is escaped, and a folder's name may hold any character.
    prefix = "" if folder.is_absolute() else f"{_escape(info.data.get('home', Path()))}/"
    return f"{scheme}{prefix}{_escape(folder) if path.startswith('~') else folder}{options}"


def _escape(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3F")


def _split_list(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _parse_host(value: str) -> str:
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if value != "*" and not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", bare) and ":" not in bare:
        raise ValueError("must be host names or addresses, separated by commas")
    if ":" in bare:
        try:
            bare = str(ipaddress.IPv6Address(bare))
        except ValueError:
            raise ValueError("must be host names without a scheme or port") from None
    return bare.lower()


def _parse_network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(
            "must be addresses or networks such as 10.0.0.0/8, separated by commas"
        ) from None


def _parse_root_path(value: str) -> str:
    if value in {"", "/"}:
        return ""
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", value) or {".", ".."} & set(value.split("/")):
        raise ValueError("must be a path such as /music")
    return value.rstrip("/")


def _require_ascii(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces")
    return value


def default_home() -> tuple[Path, str]:
    """Return the home folder used without `DGX_MUSIC_HOME`, and the reason for it in words."""
    checkout = find_checkout()
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
    """The home folder, which must be known before its `.env` can be read."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )

    home: Annotated[Path, BeforeValidator(_parse_folder), AfterValidator(_resolve_home)] = Field(
        default_factory=lambda: default_home()[0],
        description="Folder of the database, the music, the models and `.env`; environment only.",
    )


class Settings(HomeSettings):
    """Every setting; `docs/settings.md` is generated from the descriptions.

    Relative paths are resolved against `home`, in the environment as in `.env`.
    """

    database_url: Annotated[
        str, AfterValidator(_require_text), AfterValidator(_resolve_database)
    ] = Field(
        f"sqlite:///{_DATABASE_FILE}",
        validation_alias="DATABASE_URL",
        description="SQLite file or PostgreSQL server that holds the jobs.",
    )
    database_timeout_seconds: float = Field(
        30.0, gt=0.0, le=3600.0, description="How long to wait for a locked database."
    )
    output_dir: Annotated[Path, BeforeValidator(_parse_folder), AfterValidator(_resolve_path)] = (
        Field(
            Path("data/outputs"),
            description="Folder of the audio files: YYYY/MM/DD/<id>.wav.",
        )
    )
    file_store: Annotated[str, AfterValidator(_parse_bucket)] | None = Field(
        None,
        description="Bucket for finished files, `s3://bucket/prefix`, when API and workers run on "
        "different machines (docs/files.md). Without one they stay in the output folder.",
    )
    file_cache_mib: int = Field(
        1024,
        ge=0,
        description="Space in the output folder for converted files and copies from a bucket.",
    )
    model_name: Annotated[str, AfterValidator(_require_text)] = Field(
        "auto",
        description="Model for requests that name none; `auto` picks the best one installed.",
    )
    models_dir: Annotated[Path, BeforeValidator(_parse_folder), AfterValidator(_resolve_path)] = (
        Field(
            Path("data/models"),
            description="Folder of the neural models' weights, one folder for each model.",
        )
    )
    use_gpu: bool = Field(True, description="Let neural models use a GPU if there is one.")
    cpu_precision: CpuPrecision = Field(
        "auto",
        description="Precision of neural models on the CPU: `fp32` is exact, `int8` several "
        "times faster; `auto` is `int8` if the model passes its check.",
    )
    target_lufs: Annotated[float | None, BeforeValidator(_parse_off)] = Field(
        -16.0,
        ge=-40.0,
        le=-6.0,
        description="Integrated loudness of finished files, LUFS; `off` leaves the level as it is.",
    )
    true_peak_dbtp: float = Field(
        -1.0, ge=-12.0, le=0.0, description="Highest true peak of finished files, dBTP."
    )
    bit_depth: BitDepth = Field("PCM_16", description="Sample format of the WAV files.")
    max_retries: int = Field(3, ge=0, le=10, description="How often a worker retries a failed job.")
    retry_delay_seconds: float = Field(
        1.0, ge=0.0, le=3600.0, description="Delay before the first retry; it doubles each time."
    )
    worker_concurrency: int = Field(
        1,
        ge=1,
        le=64,
        description="Jobs that one worker runs at the same time: in one process if the engine can "
        "batch them, else in a process each (docs/queue.md).",
    )
    worker_ttl_seconds: float = Field(
        30.0,
        ge=1.0,
        le=3600.0,
        description="A worker without a heartbeat for this long counts as dead, and others take "
        "over its jobs.",
    )
    drain_seconds: float = Field(
        60.0,
        ge=0.0,
        le=3600.0,
        description="Time that a stopping worker has to finish its jobs; unfinished jobs return to "
        "the queue.",
    )
    engine_idle_seconds: float = Field(
        600.0, gt=0.0, description="A worker unloads an engine that is idle for this long."
    )
    engine_stall_seconds: float = Field(
        300.0, gt=0.0, description="A worker kills an engine that makes no progress for this long."
    )
    job_deadline_seconds: float = Field(
        3600.0, gt=0.0, description="A worker kills an engine that spends this long on one job."
    )
    input_max_bytes: int = Field(
        134_217_728,
        ge=65_536,
        le=4_294_967_296,
        description="Largest audio file that a request may upload: a melody, or music to continue.",
    )
    input_max_seconds: float = Field(
        600.0, gt=0.0, le=86_400.0, description="Longest audio in such a file."
    )
    queue_limit: int = Field(
        10_000, ge=1, le=1_000_000, description="Jobs that may wait in the queue; more are refused."
    )
    disk_low_bytes: int = Field(
        5 * 2**30, ge=0, description="Free space below which the health check is degraded."
    )
    disk_floor_bytes: int = Field(
        2**30, ge=0, description="Free space below which new jobs are refused."
    )
    queue_slow_seconds: float = Field(
        600.0,
        gt=0.0,
        description="The health check is degraded if a job has waited longer.",
    )
    rate_limit_enabled: bool = Field(True, description="Limit the rate of each API client.")
    rate_limit_per_minute: int = Field(
        10, ge=1, description="Generation requests per minute for each API client."
    )
    api_host: str = Field("127.0.0.1", description="Address the API listens on.")
    api_port: int = Field(8000, ge=1, le=65535, description="Port the API listens on.")
    api_key: Annotated[SecretStr | None, AfterValidator(_require_ascii)] = Field(
        None,
        description="The operator's key, which may see all clients' jobs; `dgx-music keys` "
        "creates the clients' keys.",
    )
    api_allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_parse_host)], ...],
        NoDecode,
        BeforeValidator(_split_list),
    ] = Field(
        (),
        description="Host names that the API answers to besides localhost and its own address, "
        "separated by commas; `*` allows any.",
    )
    api_trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_parse_network)], ...],
        NoDecode,
        BeforeValidator(_split_list),
    ] = Field(
        (),
        description="Addresses or networks of proxies whose `X-Forwarded-For` header is trusted, "
        "separated by commas.",
    )
    api_root_path: Annotated[str, AfterValidator(_parse_root_path)] = Field(
        "",
        description="Path under which a proxy offers the API, such as `/music`; links begin so.",
    )
    api_max_body_bytes: int = Field(
        65536, ge=1024, le=16_777_216, description="Largest request body."
    )
    log_level: LogLevel = Field("WARNING", description="Lowest level that is logged on stderr.")
    log_format: LogFormat = Field(
        "auto",
        description="`text` or `json`, one event per line; `auto` is JSON for a server whose "
        "stderr is not a terminal.",
    )

    def hide_paths(self, text: str) -> str:
        """Return the text with the names of settings in place of their folders.

        An operator knows what they stand for, and nobody else learns it.
        """
        fields = ("home", "output_dir", "models_dir")
        return hide_paths(text, [(getattr(self, name), variable_of(name)) for name in fields])


def variable_of(field_name: str) -> str:
    """Return the environment variable of a field of `Settings`."""
    alias = Settings.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{field_name.upper()}"


def load_settings(env_file: Path | None = ENV_FILE, **given: Any) -> Settings:
    """Read the settings from the environment and `env_file`.

    Args:
        env_file: relative to the home folder, or absolute; None reads the environment only.
        given: settings that come before both, such as those of an option.

    Raises:
        SettingsError: a value is invalid, or a DGX_MUSIC_ variable is not a setting.
    """
    try:
        if env_file is not None:
            env_file = HomeSettings().home / env_file
        _refuse_unknown_names(env_file)
        options: dict[str, Any] = {"_env_file": env_file, "_env_file_encoding": "utf-8"}
        return Settings(**options, **given)
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


def _refuse_unknown_names(env_file: Path | None) -> None:
    known = {variable_of(name) for name in Settings.model_fields}
    in_file = _read_names(env_file)
    if variable_of("home") in map(str.upper, in_file):
        raise SettingsError(
            f"{env_file}: DGX_MUSIC_HOME cannot be set here. Set it in the environment."
        )
    for name in sorted({*os.environ, *in_file}):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper.startswith(f"{PREFIX}TEST_") or upper in known:
            continue
        bare = upper.removeprefix(PREFIX)
        near = [bare] if bare in known else difflib.get_close_matches(upper, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else " docs/settings.md lists them."
        raise SettingsError(f"{name} is not a setting.{hint}")


def _read_names(env_file: Path | None) -> list[str]:
    if env_file is None or not env_file.exists():
        return []
    if not env_file.is_file():
        raise SettingsError(f"{env_file} is not a file. Move it away.")
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
            raise SettingsError(f"{env_file}, line {line}: this is not NAME=value.")
    return [binding.key for binding in bindings if binding.key]
