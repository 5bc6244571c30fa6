"""Labelling through the real gateway: who gets which item, what becomes of labels, and what a token is good for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.integration.gateway_app import RunningGateway, running_gateway
from tests.integration.labelling_app import BASE, Person, add_items, make_project


@pytest.fixture(scope="module")
def running(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    url = servers.new_database(postgres.url, "test_labelling", template="heliu_template")
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("home")) as gateway:
        yield gateway
    servers.drop_database(postgres.url, "test_labelling")


@pytest.fixture
def gateway(running: RunningGateway) -> RunningGateway:
    with running.as_tenant() as c:
        c.execute("UPDATE data_governance.label_project SET deleted_at = now()")
    return running


def item(gateway: RunningGateway, project: str, number: int) -> dict[str, Any]:
    with gateway.http() as owner:
        answer = owner.get(f"{BASE}/{project}/items/{project}-{number}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_twenty_labellers_at_once_get_distinct_items_and_lose_no_label(gateway: RunningGateway) -> None:
    project = make_project(gateway, [f"text {n}" for n in range(100)])
    people = [Person(gateway, project, f"p{n}") for n in range(20)]

    def work(person: Person) -> list[str]:
        done = []
        while items := person.next(3):
            for one in items:
                person.label(one["id"], "good")
                done.append(one["id"])
        return done

    with ThreadPoolExecutor(20) as pool:
        shares = list(pool.map(work, people))
    given = Counter(one for share in shares for one in share)
    assert (len(given), max(given.values())) == (100, 1)
    with gateway.http() as owner:
        progress = owner.get(f"{BASE}/{project}").json()["progress"]
    assert progress == {"items": 100, "open": 0, "adjudication": 0, "done": 100, "gold": 0, "labels": 100}


def test_twenty_labellers_fill_every_item_twice_and_none_by_the_same_person(gateway: RunningGateway) -> None:
    project = make_project(gateway, [f"text {n}" for n in range(40)], labels_per_item=2)
    people = [Person(gateway, project, f"p{n}") for n in range(20)]

    def work(person: Person) -> list[str]:
        done = []
        while items := person.next(2):
            for one in items:
                person.label(one["id"], "good")
                done.append(one["id"])
        return done

    with ThreadPoolExecutor(20) as pool:
        shares = list(pool.map(work, people))
    assert all(len(set(share)) == len(share) for share in shares)
    given = Counter(one for share in shares for one in share)
    assert set(given.values()) == {2}
    assert len(given) == 40


def test_a_labeller_is_given_the_same_again_until_it_is_answered(gateway: RunningGateway) -> None:
    project = make_project(gateway, ["one", "two", "three", "four"])
    li = Person(gateway, project, "li")
    first = [one["id"] for one in li.next(2)]
    assert [one["id"] for one in li.next(2)] == first == [f"{project}-0", f"{project}-1"]
    li.label(first[0], "good")
    assert [one["id"] for one in li.next(2)] == [first[1], f"{project}-2"]


def test_a_lease_that_runs_out_gives_the_item_to_another_and_refuses_the_late_label(
    gateway: RunningGateway,
) -> None:
    project = make_project(gateway, ["one"])
    slow, quick = Person(gateway, project, "slow"), Person(gateway, project, "quick")
    (held,) = slow.next()
    assert quick.next() == []
    with gateway.as_tenant() as c:
        c.execute(
            "UPDATE data_governance.label_turn SET until = now() - interval '1 second' WHERE until > now()"
        )
    assert [one["id"] for one in quick.next()] == [held["id"]]
    late = slow.send(held["id"], value={"label": "bad"})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "conflict")
    quick.label(held["id"], "good")
    assert item(gateway, project, 0)["final"] == {"label": "good"}


def test_a_late_label_counts_while_nobody_took_the_place(gateway: RunningGateway) -> None:
    project = make_project(gateway, ["one"])
    slow, other = Person(gateway, project, "slow"), Person(gateway, project, "other")
    (held,) = slow.next()
    with gateway.as_tenant() as c:
        c.execute(
            "UPDATE data_governance.label_turn SET until = now() - interval '1 second' WHERE until > now()"
        )
    slow.label(held["id"], "bad")
    assert other.next() == []
    assert item(gateway, project, 0)["final"] == {"label": "bad"}


def test_labels_that_differ_go_to_an_adjudicator_who_did_not_label(gateway: RunningGateway) -> None:
    project = make_project(gateway, ["one", "two"], labels_per_item=2)
    li, wang = Person(gateway, project, "li", adjudicates=True), Person(gateway, project, "wang")
    judge = Person(gateway, project, "judge", adjudicates=True)
    for one in li.next(2):
        li.label(one["id"], "good")
    wang.label(f"{project}-0", "bad")
    wang.label(f"{project}-1", "good")
    assert item(gateway, project, 1)["final"] == {"label": "good"}
    assert (item(gateway, project, 0)["state"], item(gateway, project, 0)["agreement"]) == (
        "adjudication",
        0.5,
    )
    assert li.next(queue="adjudication") == []
    refused = wang.http.post(f"{wang.work}/next", json={"queue": "adjudication"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    own = li.send(f"{project}-0", value={"label": "good"}, queue="adjudication")
    assert own.status_code == 409
    (case,) = judge.next(queue="adjudication")
    assert sorted(value["label"] for value in case["labels"]) == ["bad", "good"]
    assert "labeller" not in str(case)
    judge.label(case["id"], "bad", queue="adjudication")
    decided = item(gateway, project, 0)
    assert (decided["state"], decided["final"], decided["final_by"]) == (
        "done",
        {"label": "bad"},
        "adjudicator",
    )
    corrected = li.send(f"{project}-0", value={"label": "bad"})
    assert corrected.status_code == 409


def test_a_labeller_sees_nothing_of_what_others_said(gateway: RunningGateway) -> None:
    project = make_project(gateway, ["one"], labels_per_item=2)
    li, wang = Person(gateway, project, "li"), Person(gateway, project, "wang")
    li.label(li.next()[0]["id"], "bad")
    (blind,) = wang.next()
    assert set(blind) == {"id", "object", "data", "leased_until"}
    assert wang.label(blind["id"], "bad")["state"] == "labelled"
    assert set(wang.http.get(f"{wang.work}/labels").json()["data"][0]) == {
        *("id", "object", "state", "value", "data", "at")
    }


def test_a_label_can_be_corrected_and_all_that_was_said_stays(gateway: RunningGateway) -> None:
    project = make_project(gateway, ["one", "two"], labels_per_item=2)
    li, wang = Person(gateway, project, "li"), Person(gateway, project, "wang")
    li.label(f"{project}-0", "good", seconds=1.5)
    wang.label(f"{project}-0", "good")
    assert li.label(f"{project}-0", "good")["corrected"] is False
    assert li.label(f"{project}-0", "bad")["corrected"] is True
    assert item(gateway, project, 0)["state"] == "adjudication"
    li.label(f"{project}-0", "good")
    assert item(gateway, project, 0)["final"] == {"label": "good"}
    with gateway.http() as owner:
        told = owner.get(f"{BASE}/{project}/items/{project}-0/history").json()["data"]
    said = [(one["kind"], one["labeller"], one["value"]["label"]) for one in told]
    assert said == [
        ("label", "li", "good"),
        ("label", "wang", "good"),
        ("correct", "li", "bad"),
        ("correct", "li", "good"),
    ]
    assert told[0]["seconds"] == 1.5


def test_history_cannot_be_changed_or_taken_away(gateway: RunningGateway) -> None:
    for statement in (
        "UPDATE data_governance.label_event SET value = NULL",
        "DELETE FROM data_governance.label_event",
    ):
        with pytest.raises(Exception, match="permission denied"), gateway.as_tenant() as c:
            c.execute(statement)


def test_a_skipped_item_goes_to_another_and_never_comes_back(gateway: RunningGateway) -> None:
    project = make_project(gateway, ["one", "two"])
    li, wang = Person(gateway, project, "li"), Person(gateway, project, "wang")
    assert li.send(li.next()[0]["id"], skip=True).json()["state"] == "skipped"
    assert [one["id"] for one in li.next(3)] == [f"{project}-1"]
    assert [one["id"] for one in wang.next(3)] == [f"{project}-0"]
    with gateway.http() as owner:
        rows = {row["name"]: row for row in owner.get(f"{BASE}/{project}/labellers").json()["data"]}
    assert (rows["li"]["labelled"], rows["li"]["skipped"]) == (0, 1)


def test_known_items_come_among_the_others_and_look_like_them(gateway: RunningGateway) -> None:
    project = make_project(gateway, [f"text {n}" for n in range(40)], gold_share=0.25)
    with gateway.http() as owner:
        for number in range(8):
            path = f"{BASE}/{project}/items/{project}-{number}/gold"
            assert owner.post(path, json={"value": {"label": "good"}}).json()["state"] == "gold"
        wrong = owner.post(f"{BASE}/{project}/items/{project}-0/gold", json={"value": {"label": "fine"}})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "value.label")
    people = [Person(gateway, project, name) for name in ("li", "wang")]
    for person in people:
        given = []
        while len(given) < 16 and (found := person.next()):
            assert set(found[0]) == {"id", "object", "data", "leased_until"}
            given.append(int(found[0]["id"].rpartition("-")[2]))
            person.label(found[0]["id"], "good")
        assert 2 <= sum(number < 8 for number in given) <= 6


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"task": "classification", "labels": []}, "labels"),
        ({"task": "sorting"}, "task"),
        ({"labels": ["a", "a"]}, "labels"),
        ({"task": "spans", "multiple": True, "labels": ["a"]}, "multiple"),
        ({"labels_per_item": 0}, "labels_per_item"),
        ({"agreement": 1.5}, "agreement"),
        ({"gold_share": 0.9}, "gold_share"),
        ({"name": "a/b"}, "name"),
        ({"lable": ["x"]}, "lable"),
        ({"file_id": "file-none"}, "file_id"),
        ({"version_id": "dsv-none"}, "version_id"),
    ],
)
def test_a_project_that_makes_no_sense_is_refused_with_the_place(
    gateway: RunningGateway, values: dict[str, Any], param: str
) -> None:
    body = {"name": "wrong", "task": "classification", "labels": ["a", "b"], **values}
    with gateway.http() as owner:
        answer = owner.post(BASE, json=body)
    assert answer.status_code in (400, 404)
    assert param in (answer.json()["error"]["param"] or "") or param in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("task", "value", "words"),
    [
        ({}, {"label": "Good"}, "did you mean 'good'"),
        ({}, {"labels": ["good"]}, '{"label": ...}'),
        ({}, {"label": ["good"]}, "no label"),
        ({"multiple": True}, {"labels": "good"}, "a list"),
        ({"task": "preference", "labels": []}, {"choice": "c"}, "no label"),
        ({"task": "text", "labels": []}, {"text": "  "}, "not blank"),
        ({"task": "spans"}, {"spans": [{"start": 0, "end": 99, "label": "good"}]}, "has 3 characters"),
        ({"task": "spans"}, {"spans": [{"start": 2, "end": 2, "label": "good"}]}, "lies not within"),
        ({"task": "spans"}, {"spans": [{"start": True, "end": 2, "label": "good"}]}, "lies not within"),
        ({"task": "spans"}, {"spans": [{"start": 0, "end": 1}]}, "must be"),
    ],
)
def test_a_label_that_does_not_fit_is_refused_and_the_item_stays(
    gateway: RunningGateway, task: dict[str, Any], value: dict[str, Any], words: str
) -> None:
    project = make_project(gateway, ["one"], **task)
    li = Person(gateway, project, "li")
    held = li.next()[0]["id"]
    answer = li.send(held, value=value)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert [one["id"] for one in li.next()] == [held]


def test_a_labelling_token_is_good_for_its_project_and_nothing_else(gateway: RunningGateway) -> None:
    project = make_project(gateway, ["one"])
    other = make_project(gateway, [], name="other")
    li = Person(gateway, project, "li")
    assert li.http.get(li.work).json()["labeller"]["name"] == "li"
    refused = [
        ("GET", "/v1/files"),
        ("GET", "/v1/jobs"),
        ("GET", BASE),
        ("GET", f"{BASE}/{project}"),
        ("GET", f"{BASE}/{project}/items"),
        ("GET", f"{BASE}/{project}/workers"),
        ("POST", f"{BASE}/{project}/labellers"),
        ("POST", f"{BASE}/{project}/export"),
        ("DELETE", f"{BASE}/{project}"),
        ("GET", f"{BASE}/{other}/work"),
        ("POST", f"{BASE}/{other}/work/next"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json/x"),
    ]
    for method, path in refused:
        answer = li.http.request(method, path, json={} if method == "POST" else None)
        assert (method, path, answer.status_code) == (method, path, 403)
    with gateway.http() as owner:
        mine = owner.post(f"{li.work}/next", json={})
        assert (mine.status_code, "labeller" in mine.json()["error"]["message"]) == (403, True)
        assert owner.get(li.work).json()["labeller"] is None
    with gateway.http(None) as nobody:
        assert nobody.post(f"{li.work}/next", json={}).status_code == 401


def test_a_revoked_labeller_and_one_of_a_removed_project_are_out_at_once(gateway: RunningGateway) -> None:
    project = make_project(gateway, ["one"])
    li, wang = Person(gateway, project, "li"), Person(gateway, project, "wang")
    assert li.http.get(li.work).status_code == wang.http.get(wang.work).status_code == 200
    with gateway.http() as owner:
        assert owner.delete(f"{BASE}/{project}/labellers/{li.id}").json()["deleted"] is True
        assert li.http.get(li.work).status_code == 401
        again = owner.post(f"{BASE}/{project}/labellers", json={"name": "wang"})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "already_exists")
        assert owner.delete(f"{BASE}/{project}").json()["deleted"] is True
    assert wang.http.get(wang.work).status_code == 401


def test_a_dump_of_the_database_holds_no_labelling_token(gateway: RunningGateway) -> None:
    project = make_project(gateway, [])
    li = Person(gateway, project, "li")
    with gateway.platform.db.core() as c:
        rows = c.execute("SELECT * FROM data_governance.label_labeller").fetchall()
    assert li.token not in repr(rows)
    with pytest.raises(Exception, match="permission denied"), gateway.as_tenant() as c:
        c.execute("SELECT digest FROM data_governance.label_labeller")


def test_lists_go_on_after_a_cursor_and_refuse_an_unknown_one(gateway: RunningGateway) -> None:
    project = make_project(gateway, [f"text {n}" for n in range(5)])
    people = [Person(gateway, project, f"p{n}") for n in range(3)]
    people[0].label(people[0].next()[0]["id"], "good")
    with gateway.http() as owner:
        for path, size in (("items", 5), ("labellers", 3)):
            seen: list[str] = []
            more = True
            while more:
                params = {"limit": 2, **({"after": seen[-1]} if seen else {})}
                page = owner.get(f"{BASE}/{project}/{path}", params=params).json()
                seen += [row["id"] for row in page["data"]]
                more = page["has_more"]
            assert (path, len(seen), len(set(seen))) == (path, size, size)
        for path in ("", f"/{project}/items", f"/{project}/labellers", f"/{project}/suspects"):
            answer = owner.get(f"{BASE}{path}", params={"after": "nobody"})
            assert (path, answer.status_code, answer.json()["error"]["param"]) == (path, 400, "after")
        assert len(owner.get(f"{BASE}/{project}/items", params={"state": "done"}).json()["data"]) == 1
    assert people[0].http.get(f"{people[0].work}/labels").json()["data"][0]["value"] == {"label": "good"}


def test_spans_count_code_points_and_come_in_order(gateway: RunningGateway) -> None:
    project = make_project(gateway, [], task="spans", labels=["person", "place"])
    add_items(gateway, project, [{"text": "😀王芳住在北京"}])
    li = Person(gateway, project, "li")
    spans = [{"start": 5, "end": 7, "label": "place"}, {"start": 1, "end": 3, "label": "person"}]
    answer = li.send(li.next()[0]["id"], value={"spans": spans})
    assert answer.json()["value"] == {"spans": [spans[1], spans[0]]}


def test_without_auth_labellers_still_say_who_they_are(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path: Path
) -> None:
    url = servers.new_database(postgres.url, "test_labelling_open", template="heliu_template")
    with (
        running_gateway(url, valkey.url, tmp_path, auth="off") as open_gateway,
        open_gateway.http(None) as owner,
    ):
        body = {"name": "open", "task": "classification", "labels": ["a", "b"]}
        project = owner.post(BASE, json=body).json()["id"]
        made = owner.post(f"{BASE}/{project}/labellers", json={"name": "li"}).json()
        work = f"{BASE}/{project}/work"
        assert owner.get(work).json()["labeller"] is None
        mine = {"authorization": f"Bearer {made['token']}"}
        assert owner.get(work, headers=mine).json()["labeller"]["name"] == "li"
        assert owner.get("/v1/files", headers=mine).status_code == 403
        mistyped = {"authorization": f"Bearer {made['token'][:-1]}"}
        assert owner.get(work, headers=mistyped).status_code == 401
    servers.drop_database(postgres.url, "test_labelling_open")
