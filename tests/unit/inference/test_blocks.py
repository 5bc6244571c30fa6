"""The allocator never hands a block to two owners, and finds only what is remembered."""

from __future__ import annotations

import random

from services.inference.engine.blocks import BlockAllocator


def test_blocks_are_taken_whole_or_not_at_all() -> None:
    allocator = BlockAllocator(64, 16)
    assert allocator.take(5) is None
    assert allocator.take(4) == [1, 2, 3, 4]
    assert (allocator.free, allocator.take(1)) == (0, None)


def test_a_shared_block_is_free_when_its_last_holder_gives_it_back() -> None:
    allocator = BlockAllocator(64, 16)
    (block,) = allocator.take(1) or []
    allocator.remember(block, b"k")
    allocator.hold(allocator.find([b"k"]))
    allocator.give_back([block])
    assert allocator.free == 3
    allocator.give_back([block])
    assert (allocator.free, allocator.find([b"k"])) == (4, [block])


def test_a_gap_ends_what_is_found() -> None:
    allocator = BlockAllocator(64, 16)
    first, second, third = allocator.take(3) or []
    for block, key in ((first, b"1"), (third, b"3")):
        allocator.remember(block, key)
    assert allocator.find([b"1", b"2", b"3"]) == [first]
    allocator.remember(second, b"2")
    assert allocator.find([b"1", b"2", b"3"]) == [first, second, third]


def test_the_end_of_a_table_is_reused_before_its_beginning() -> None:
    allocator = BlockAllocator(48, 16)
    blocks = allocator.take(3) or []
    for place, block in enumerate(blocks):
        allocator.remember(block, bytes([place]))
    allocator.give_back(blocks)
    assert allocator.take(1) == [blocks[2]]
    assert allocator.find([b"\0", b"\1", b"\2"]) == blocks[:2]


def test_what_is_spoiled_is_not_found_again_and_told_only_where_nobody_else_holds_it() -> None:
    allocator = BlockAllocator(64, 16)
    mine, ours = allocator.take(2) or []
    allocator.remember(mine, b"m")
    allocator.remember(ours, b"o")
    allocator.hold([ours])
    assert allocator.spoil([mine, ours]) == [mine]
    assert allocator.find([b"m"]) == allocator.find([b"o"]) == []


def test_no_two_owners_under_random_use() -> None:
    dice = random.Random(3)
    allocator = BlockAllocator(40 * 8, 8)
    owned: list[list[int]] = []
    shared: list[list[int]] = []
    for step in range(5000):
        action = dice.random()
        if action < 0.45 and (taken := allocator.take(dice.randint(1, 5))) is not None:
            # Nobody else may hold what is taken.
            assert not {b for blocks in owned + shared for b in blocks} & set(taken)
            owned.append(taken)
            for place, block in enumerate(taken):
                allocator.remember(block, f"{step % 50}.{place}".encode())
        elif action < 0.6:
            found = allocator.find([f"{dice.randrange(50)}.{place}".encode() for place in range(3)])
            allocator.hold(found)
            shared.append(found)
        elif action < 0.8 and owned:
            allocator.give_back(owned.pop(dice.randrange(len(owned))))
        elif shared:
            allocator.give_back(shared.pop(dice.randrange(len(shared))))
        held = {b for blocks in owned + shared for b in blocks}
        assert allocator.free == allocator.total - len(held)
