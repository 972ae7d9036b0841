"""Writes THIRD_PARTY.md: the licence of every locked package, and which installation has it.

./just docs                                write it, with the blocks of docs/
python scripts/third_party.py --check      exit 1 when it differs

Licences come from the metadata of the packages in .venv, which has to be a development environment.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "THIRD_PARTY.md"
INSTALLATIONS = {
    "core": ("bootstrap", "core"),
    "server": ("bootstrap", "server"),
    "musicgen": ("bootstrap", "musicgen"),
    "formats": ("bootstrap", "formats"),
    "development": ("bootstrap", "dev"),
}
"""What `scripts/setup` can install, and the lock files it reads for that."""

PIN = re.compile(r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==([^\s;]+)(?: ; ([^\\\n]+))?", re.MULTILINE)
TORCH = re.compile(r'^ *"torch==([^"]+)",$', re.MULTILINE)
ELSEWHERE = re.compile(r"sys_platform == '(?:win32|emscripten)'")

LICENCES = {
    "antlr4-python3-runtime": ("BSD-3-Clause", "the head of each file"),
    "audioread": ("MIT", "metadata; on Python 3.11 only"),
    "colorama": ("BSD-3-Clause", "licence file of the wheel for Windows"),
    "contourpy": ("BSD-3-Clause", "licence file"),
    "cycler": ("BSD-3-Clause", "licence file"),
    "httpx2-jsfetch": ("BSD-3-Clause", "metadata of the wheel"),
    "itsdangerous": ("BSD-3-Clause", "licence file"),
    "jinja2": ("BSD-3-Clause", "licence file"),
    "kiwisolver": ("BSD-3-Clause", "licence file"),
    "matplotlib": ("LicenseRef-matplotlib", "licence file, in the style of PSF-2.0"),
    "mpmath": ("BSD-3-Clause", "licence file"),
    "numba": ("BSD-2-Clause", "licence file"),
    "python-dateutil": ("Apache-2.0 AND BSD-3-Clause", "licence file; BSD for what is older"),
    "pywin32": ("PSF-2.0", "metadata of the wheel for Windows"),
    "scipy": ("BSD-3-Clause", "licence file"),
    "sqlcipher3": ("Zlib", "licence file"),
    "sympy": ("BSD-3-Clause", "licence file"),
    "torch": (
        "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND BSD-3-Clause "
        "AND BSL-1.0 AND MIT",
        "metadata of the build for CPUs",
    ),
    "tzdata": ("Apache-2.0", "metadata of the wheel"),
    "uvloop": ("MIT OR Apache-2.0", "both licence files"),
}
"""Where the metadata says nothing exact, or nothing is installed on Linux: licence and source."""

SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "ISC License": "ISC",
    "MIT license": "MIT",
} | {
    name: name
    for name in (
        "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "MPL-2.0 AND MIT",
    )
}  # fmt: skip
CLASSIFIERS = {
    "License :: CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}

BUNDLED = {
    "av": (
        "FFmpeg (its libraries say LGPL-3.0-or-later), x264 and x265 (GPL-2.0-or-later), "
        "LAME (LGPL-2.0-or-later), GnuTLS, libunistring (LGPL-2.1-or-later), Nettle and GMP "
        "(LGPL-3.0-or-later OR GPL-2.0-or-later), alsa-lib (LGPL-2.1-or-later), OpenCORE AMR "
        "(Apache-2.0), Opus, libvpx, dav1d, SVT-AV1, WebP, oneVPL, libdrm and XCB, permissive",
        "names in the wheel; the projects' own licences",
    ),
    "fastapi-offline": ("Swagger UI (Apache-2.0), ReDoc (MIT)", "the projects' own repositories"),
    "httptools": ("llhttp (MIT)", "licence file"),
    "numba": (
        "parts of CPython (PSF-2.0), cloudpickle and NetworkX (BSD-3-Clause), CUDA half-precision "
        "headers (NVIDIA's terms, which allow passing them on)",
        "licence file",
    ),
    "numpy": (
        "OpenBLAS (BSD-3-Clause), LAPACK (BSD-3-Clause-Open-MPI), "
        "libgfortran (GPL-3.0-or-later WITH GCC-exception-3.1), libquadmath (LGPL-2.1-or-later)",
        "licence file",
    ),
    "pillow": (
        "FreeType (FTL), HarfBuzz, libjpeg-turbo, libpng, libtiff, libwebp, libavif, OpenJPEG, "
        "Little CMS, XCB, zlib and others, all permissive",
        "licence file and SBOM",
    ),
    "psycopg-binary": (
        "libpq (PostgreSQL), OpenSSL (Apache-2.0), MIT Kerberos and libcom_err (MIT), "
        "OpenLDAP (OLDAP-2.8), Cyrus SASL (BSD-Attribution-HPND-disclaimer), "
        "libcrypt (LGPL-2.1-or-later), keyutils (LGPL-2.0-or-later)",
        "names in the wheel; the projects' own licences",
    ),
    "soundfile": (
        "libsndfile (LGPL-2.1-or-later), LAME (LGPL-2.0-or-later), mpg123 (LGPL-2.1-only), "
        "FLAC, Ogg, Vorbis and Opus (BSD-3-Clause)",
        "licence file beside the library; the projects' own licences",
    ),
    "soxr": ("libsoxr (LGPL-2.1-or-later), PFFFT (its own, permissive)", "licence files"),
    "sqlcipher3": (
        "SQLCipher (BSD-3-Clause), SQLite (public domain), OpenSSL (Apache-2.0)",
        "names in the wheel; the projects' own licences",
    ),
    "torch": ("libgomp (GPL-3.0-or-later WITH GCC-exception-3.1)", "GCC's own licence"),
    "uvloop": ("libuv (MIT)", "the project's own repository"),
}
"""Other projects' parts in the wheels that users install, with the source of the fact."""

HEAD = """\
# Third-party software

<!-- Written by scripts/third_party.py: run ./just docs. -->

DGX Music is under the [MIT licence](LICENSE), and the package contains no file of another project.
Its dependencies are installed from the lock files in [requirements/](requirements). This page lists
them with the licence that each states for itself, as an [SPDX](https://spdx.org/licenses/)
expression. It is not legal advice.

## Passing it on

A Docker image, a folder of wheels or a copy of `.venv` contains the packages below. Whoever passes
one on is bound by their licences:

- GPL: pass the source on too, or an offer of it. As the GPL is commonly read, it also covers the
  whole program that imports the package; beside Apache-2.0 and LGPL-3.0 that means version 3.
  It is the licence of {gpl}, and of libraries in the wheel of av, which only the
  installations `formats` and `development` have.
- LGPL: keep the package replaceable, and pass its source on too, or an offer of it. It is the
  licence of {lgpl}, and of libraries in the wheels of numpy,
  psycopg-binary, soundfile and soxr.
- MPL-2.0: changes to its files stay under it. It is the licence of
  {mpl}.
- All others ask for their copyright notices and licence texts. Most wheels have these in
  `*.dist-info`; some list what is compiled into them in `*.dist-info/sboms`.
- PyTorch comes in the build for the machine. Builds for CUDA also install Triton (MIT) and
  NVIDIA's libraries, which are proprietary: NVIDIA's terms say what may be passed on.
- The weights of MusicGen (CC-BY-NC-4.0) are in no package: `dgx-music models install` downloads
  them. An image that contains them is for non-commercial use.
- An image built with `deploy/Dockerfile` also contains the Debian and Python of its base image.

## Packages

`all` means every installation that `scripts/setup` makes: core, server, musicgen, formats and
development.
Of two versions, the first is for Python 3.11 and the second for later ones. uv, hatchling,
rust-just and what only these need serve the set-up: `pip install dgx-music` does not install them.

"""


class Package(NamedTuple):
    name: str
    versions: tuple[str, ...]
    installations: tuple[str, ...]
    on_linux: bool


def pins(lock: str) -> Iterator[tuple[str, str, bool]]:
    """Yield name, version and whether Linux installs it, for each entry of a lock file."""
    for name, version, marker in PIN.findall((ROOT / f"requirements/{lock}.lock").read_text()):
        yield name, version, ELSEWHERE.search(marker) is None


def locked() -> list[Package]:
    """Return all locked packages by name, with torch, which `scripts/setup` installs by itself."""
    versions: dict[str, dict[str, None]] = {}
    installations: dict[str, list[str]] = {}
    linux = set()
    for installation, locks in INSTALLATIONS.items():
        found = [pin for lock in locks for pin in pins(lock)]
        if installation in {"musicgen", "development"}:
            (torch,) = TORCH.findall((ROOT / "pyproject.toml").read_text())
            found.append(("torch", torch, True))
        for name, version, on_linux in found:
            versions.setdefault(name, {})[version] = None
            if installation not in installations.setdefault(name, []):
                installations[name].append(installation)
            if on_linux:
                linux.add(name)
    return [
        Package(name, tuple(versions[name]), tuple(installations[name]), name in linux)
        for name in sorted(versions)
    ]


def licence_of(name: str) -> str:
    """Return the SPDX expression of an installed package.

    Raises:
        LookupError: The metadata gives none and LICENCES has none either.
    """
    if name in LICENCES:
        return LICENCES[name][0]
    facts = metadata(name)
    if expression := facts.get("License-Expression"):
        return expression
    if spelling := SPELLINGS.get((facts.get("License") or "").strip()):
        return spelling
    stated = {
        CLASSIFIERS.get(line) for line in facts.get_all("Classifier", []) if "License ::" in line
    }
    if len(stated) == 1 and (licence := stated.pop()):
        return licence
    raise LookupError(
        f"{name}: no exact licence in its metadata; look it up and add it to LICENCES"
    )


def table(packages: list[Package]) -> list[str]:
    lines = ["| package | version | licence | installations |", "| --- | --- | --- | --- |"]
    for package in packages:
        versions, where = ", ".join(package.versions), ", ".join(package.installations)
        if len(package.installations) == len(INSTALLATIONS):
            where = "all"
        lines.append(f"| {package.name} | {versions} | {licence_of(package.name)} | {where} |")
    return lines


def facts_table(what: str, facts: dict[str, tuple[str, str]]) -> list[str]:
    head = [f"| package | {what} | source |", "| --- | --- | --- |"]
    return head + [
        f"| {name} | {fact} | {source} |" for name, (fact, source) in sorted(facts.items())
    ]


def under(family: str, packages: list[Package]) -> str:
    """Return the names of the packages under a family of licences, such as GPL."""
    return ", ".join(
        package.name
        if "core" in package.installations
        else f"{package.name} ({package.installations[0]})"
        for package in packages
        if licence_of(package.name).split("-")[0] == family
    )


def render() -> str:
    packages = locked()
    on_linux = [package for package in packages if package.on_linux]
    names = {family.lower(): under(family, on_linux) for family in ("GPL", "LGPL", "MPL")}
    lines = [HEAD.format(**names) + "\n".join(table(on_linux))]
    lines += ["", "Locked for Windows or Emscripten, and never installed on Linux:", ""]
    lines += table([package for package in packages if not package.on_linux])
    lines += ["", "## Inside the wheels", ""]
    lines += ["Other projects' parts in wheels for Linux, development packages left out.", ""]
    lines += facts_table("parts", BUNDLED)
    lines += ["", "## Licences looked up", ""]
    lines += ["Where a package's metadata is missing or inexact, or not installed everywhere.", ""]
    lines += facts_table("licence", LICENCES)
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page = render()
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print(f"{'stale' if check else 'written'}: {PAGE.name}")
    if not check:
        PAGE.write_text(page, encoding="utf-8")
    return int(check)


if __name__ == "__main__":
    sys.exit(main())
