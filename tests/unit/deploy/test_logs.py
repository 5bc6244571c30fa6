"""Log files: read from their end, kept small, followed across rotation."""

from __future__ import annotations

from pathlib import Path

from deploy import logs


def test_the_tail_is_the_last_lines_across_blocks(tmp_path: Path) -> None:
    file = tmp_path / "x.1.log"
    file.write_text("".join(f"行 {number}\n" for number in range(20_000)))
    assert logs.tail(file, 3) == ["行 19997", "行 19998", "行 19999"]
    assert len(logs.tail(file, 15_000)) == 15_000


def test_the_tail_of_nothing_is_empty(tmp_path: Path) -> None:
    assert logs.tail(tmp_path / "missing.log", 5) == []


def test_a_large_log_is_moved_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "x.1.log"
    with file.open("a") as writer:
        for word in ("one", "two", "three"):
            writer.write(word * 100 + "\n")
            writer.flush()
            logs.rotate_all(tmp_path, largest=50)
        writer.write("four\n")
    assert file.read_text() == "four\n"
    assert (tmp_path / "x.1.log.1").read_text().startswith("three")
    assert (tmp_path / "x.1.log.2").read_text().startswith("two")


def test_following_goes_on_after_the_log_was_emptied(tmp_path: Path) -> None:
    file = tmp_path / "x.1.log"
    file.write_text("before, and rather long\n")
    turns = iter(["appended\n", None, "after\n"])

    def write_on() -> bool:
        text = next(turns, "end")
        if text == "end":
            return False
        if text is None:
            file.write_text("")
        else:
            with file.open("a") as writer:
                writer.write(text)
        return True

    starts = {"x": logs.end_of_lines(file)}
    followed = logs.follow(lambda: {"x": file}, starts, go_on=write_on, pause=0)
    assert list(followed) == [("x", "appended"), ("x", "after")]


def test_no_line_is_lost_or_doubled_between_the_tail_and_what_follows(tmp_path: Path) -> None:
    file = tmp_path / "x.1.log"
    file.write_text("one\ntwo\nhal")
    end = logs.end_of_lines(file)
    with file.open("a") as writer:
        writer.write("f\nwritten while the tail is printed\n")
    assert logs.tail(file, 10, end=end) == ["one", "two"]
    turns = iter([True, False])
    followed = logs.follow(lambda: {"x": file}, {"x": end}, go_on=lambda: next(turns), pause=0)
    assert [line for _, line in followed] == ["half", "written while the tail is printed"]


def test_the_log_of_a_process_that_starts_later_is_followed_from_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "x.1.log").write_text("old\n")
    starts = {name: logs.end_of_lines(file) for name, file in logs.found(tmp_path).items()}
    (tmp_path / "x.2.log").write_text("ready\n")
    turns = iter([True, False])
    followed = logs.follow(lambda: logs.found(tmp_path), starts, go_on=lambda: next(turns), pause=0)
    assert list(followed) == [("x.2", "ready")]
