"""Print the import graph of services/: each room, its size and the rooms it imports, top first.

./just rooms         type-only imports are counted; exit 1 when rooms form a circle
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1] / "services"


def imports_of_rooms() -> dict[str, set[str]]:
    """Return room -> the rooms it imports; a file directly in services/ is a room."""
    graph = grimp.build_graph("services", cache_dir=None)
    rooms: dict[str, set[str]] = {
        room.removeprefix("services."): set() for room in graph.find_children("services")
    }
    for module in graph.modules:
        importer = _room_of(module)
        for imported in graph.find_modules_directly_imported_by(module):
            if importer in rooms and _room_of(imported) in rooms:
                rooms[importer].add(_room_of(imported))
    return {room: imported - {room} for room, imported in rooms.items()}


def floors(rooms: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms by floor, the lowest first; a room stands above all it imports.

    Raises:
        CycleError: rooms import each other in a circle.
    """
    order = TopologicalSorter(rooms)
    order.prepare()
    built = []
    while order.is_active():
        floor = sorted(order.get_ready())
        order.done(*floor)
        built.append(floor)
    return built


def _room_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def _size(room: str) -> str:
    files = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else [*_sources(ROOT / room)]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    return f"{len(files)} files, {lines} lines" if len(files) > 1 else f"{lines} lines"


def _sources(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.suffix in {".py", ".c", ".h"}]


def main() -> int:
    rooms = imports_of_rooms()
    try:
        built = floors(rooms)
    except CycleError as error:
        print("circle:", " -> ".join(error.args[1]))
        return 1
    for number, floor in reversed(list(enumerate(built, 1))):
        for room in floor:
            imported = ", ".join(sorted(rooms[room])) or "nothing of ours"
            print(f"floor {number:<2}  {room:<12} {_size(room):<24} imports {imported}")
    print(f"{len(rooms)} rooms on {len(built)} floors, no circle")
    return 0


if __name__ == "__main__":
    sys.exit(main())
