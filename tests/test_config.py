"""Settings: where they come from, and what is said about a bad one."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.config import Settings, load_settings, variable_of
from services.errors import SettingsError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("DGX_MUSIC_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)


def test_the_defaults_are_those_of_the_contract():
    settings = load_settings(None)
    assert settings.database_url == "sqlite:///data/generations.db"
    assert settings.output_dir == Path("data/outputs")
    assert settings.model_name == "auto"
    assert settings.use_gpu is True
    assert settings.max_retries == 3
    assert settings.retry_delay_seconds == 1.0
    assert settings.rate_limit_enabled is True
    assert settings.rate_limit_per_minute == 10
    assert settings.target_lufs == -16.0
    assert (settings.api_host, settings.api_port) == ("127.0.0.1", 8000)
    assert settings.api_key is None


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path, monkeypatch):
    env_file = tmp_path / ".env"
    env_file.write_text(
        "DGX_MUSIC_API_PORT=9000\nDGX_MUSIC_MAX_RETRIES=1\nDATABASE_URL=sqlite:///a.db\n"
    )
    monkeypatch.setenv("DGX_MUSIC_API_PORT", "9001")
    settings = load_settings(env_file)
    assert settings.api_port == 9001
    assert settings.max_retries == 1
    assert settings.database_url == "sqlite:///a.db"


def test_the_environment_is_read_when_asked_and_not_before(monkeypatch):
    before = load_settings(None)
    monkeypatch.setenv("DGX_MUSIC_MODEL_NAME", "composer")
    assert before.model_name == "auto"
    assert load_settings(None).model_name == "composer"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DGX_MUSIC_TARGET_LUFS", "loud"),
        ("DGX_MUSIC_TARGET_LUFS", "nan"),
        ("DGX_MUSIC_TRUE_PEAK_DBTP", "3"),
        ("DGX_MUSIC_API_PORT", "70000"),
        ("DGX_MUSIC_MAX_RETRIES", "-1"),
        ("DGX_MUSIC_BIT_DEPTH", "PCM_8"),
        ("DGX_MUSIC_LOG_LEVEL", "LOUD"),
        ("DATABASE_URL", " "),
    ],
)
def test_a_bad_value_names_its_variable_and_the_value(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings(None)
    assert repr(value) in str(caught.value)


def test_a_variable_that_is_no_setting_is_refused_with_the_nearest_one(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_TARGET_LUF", "-14")
    with pytest.raises(SettingsError, match=r"TARGET_LUF is not a setting.*DGX_MUSIC_TARGET_LUFS"):
        load_settings(None)


def test_an_unknown_line_of_the_file_is_refused_only_under_our_prefix(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text("OTHER_TOOL=1\n")
    assert load_settings(env_file).api_port == 8000
    env_file.write_text("DGX_MUSIC_PORT=1\n")
    with pytest.raises(SettingsError, match="DGX_MUSIC_PORT"):
        load_settings(env_file)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"\xff\xfe\x00DGX")
    with pytest.raises(SettingsError, match=r"\.env"):
        load_settings(env_file)


def test_the_api_key_is_never_shown(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_API_KEY", "secret-value")
    assert "secret-value" not in repr(load_settings(None))


def test_every_setting_is_described_and_has_a_variable():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert variable_of(name) == "DATABASE_URL" or variable_of(name).startswith("DGX_MUSIC_")


def test_importing_the_settings_reads_nothing():
    program = (
        "import os, sys; os.environ['DGX_MUSIC_API_PORT'] = 'broken'\n"
        "import services.config, services.jobs.service"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_line_of_the_file_that_is_no_setting_is_named(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text('DGX_MUSIC_API_PORT=9000\nDGX_MUSIC_TARGET_LUFS="-14\n')
    with pytest.raises(SettingsError, match=r"\.env, line 2"):
        load_settings(env_file)


def test_a_folder_in_the_place_of_the_file_is_said(tmp_path):
    with pytest.raises(SettingsError, match="not a file"):
        load_settings(tmp_path)


def test_the_home_folder_may_be_written_as_a_tilde_and_a_blank_folder_not_at_all(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_OUTPUT_DIR", "~/music")
    assert load_settings(None).output_dir == Path.home() / "music"
    monkeypatch.setenv("DGX_MUSIC_OUTPUT_DIR", " ")
    with pytest.raises(SettingsError, match="DGX_MUSIC_OUTPUT_DIR: must not be empty"):
        load_settings(None)


def test_the_one_variable_without_the_prefix_is_hinted_at(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_DATABASE_URL", "sqlite:///a.db")
    with pytest.raises(SettingsError, match=r"Did you mean DATABASE_URL\?"):
        load_settings(None)
