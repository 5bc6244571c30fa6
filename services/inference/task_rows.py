"""The tasks and registered models that the rows of a batch name, as they stood when it was accepted. Knows no SQL."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from shared.contracts.inference import CompletionRequest, EmbeddingRequest
from shared.contracts.model_registry import PREFIX, RegisteredRoute, ReleaseUsed, registered_name
from shared.contracts.retrieval import Found, Question
from shared.contracts.scores import ClassificationRequest, RerankRequest
from shared.contracts.task import Guard, TaskRoute, TaskSpec
from shared.errors import InvalidInput
from shared.task.bind import TaskVersion, bind, question, task_name
from shared.task.citations import Sources, sources_of
from shared.task.guards import Refused
from shared.task.split import choose

Find = Callable[[str, int], Mapping[str, Any] | None]
RowRequest = CompletionRequest | EmbeddingRequest | ClassificationRequest | RerankRequest


class BatchTasks:
    """`find` gives the stored spec of (task id, version); it is asked once for each."""

    def __init__(
        self,
        batch_id: str,
        routes: Mapping[str, TaskRoute],
        find: Find,
        found: Mapping[str, Found] | None = None,
        registered: Mapping[str, RegisteredRoute] | None = None,
    ) -> None:
        """`found` is by custom_id what rows of tasks with retrieval answer from; without it their questions are
        gathered, and they are bound as if nothing had been found."""
        self._batch_id = batch_id
        self._routes = routes
        self._find = find
        self._known: dict[tuple[str, int], TaskVersion] = {}
        self._found = found
        self._registered = registered or {}
        self.used: set[str] = set()
        self.used_registered: set[str] = set()
        self.questions: list[Question] = []

    def bound(
        self, body: Mapping[str, Any], custom_id: str
    ) -> tuple[CompletionRequest, TaskVersion, Refused | None, Sources | None] | None:
        """(request, version, what an input guard says against it, what it answers from) of a row for a task; None for
        a model's.

        A row without a `user` is shared by its custom_id, so that it gets the same version whenever it is read.
        A refused request is as it came, for its model's name alone: it must not be run.
        """
        named = task_name(body.get("model"))
        if named is None:
            return None
        user = body.get("user")
        key = user if isinstance(user, str) and user else f"{self._batch_id}:{custom_id}"
        task = self._version(*named, key)
        sources: Sources | None = None
        try:
            sources = self._sources(task, body, custom_id)
            return bind(task, body, sources), task, None, sources
        except Refused as exc:
            guards = task.spec.guards.model_copy(update={"input": Guard()})
            open_task = replace(task, spec=task.spec.model_copy(update={"guards": guards}))
            none = Sources("", ()) if task.spec.retrieval is not None else None
            return bind(open_task, body, none), task, exc, none

    def release(self, request: RowRequest, custom_id: str) -> tuple[RowRequest, ReleaseUsed | None]:
        """The request with the model of the version that a registered name is for this row; others as they are."""
        named = registered_name(request.model)
        if named is None:
            return request, None
        name, number = named
        route = self._registered.get(name)
        if route is None:
            near = difflib.get_close_matches(name, self._registered, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidInput(
                f"the registered model {name!r} did not exist when the batch was accepted{hint}",
                code="model_not_found",
                param="model",
            )
        if number is None:
            if not route.weights:
                raise InvalidInput(
                    f"{PREFIX}{name} had no version in production when the batch was accepted",
                    code="model_not_found",
                    param="model",
                )
            number = choose(route.id, route.weights, request.user or f"{self._batch_id}:{custom_id}")
        model = route.model_of(number)
        if model is None:
            raise InvalidInput(
                f"the registered model {name!r} has no version {number} that is not archived",
                code="model_not_found",
                param="model",
            )
        self.used_registered.add(name)
        return request.model_copy(update={"model": model}), ReleaseUsed(name=name, version=number)

    def _sources(self, task: TaskVersion, body: Mapping[str, Any], custom_id: str) -> Sources | None:
        wanted = task.spec.retrieval
        if wanted is None:
            return None
        if self._found is None:
            self.questions.append(
                Question(
                    id=custom_id,
                    store=wanted.vector_store,
                    query=question(task, body),
                    limit=wanted.max_results,
                    min_score=wanted.min_score,
                )
            )
            return Sources(wanted.vector_store, ())
        found = self._found[custom_id]
        if found.error is not None:
            raise Refused(found.error, code="not_found", param="model")
        return sources_of(found.store, found.passages)

    def _version(self, name: str, number: int | None, key: str) -> TaskVersion:
        route = self._routes.get(name)
        if route is None:
            near = difflib.get_close_matches(name, self._routes, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidInput(
                f"the task {name!r} did not exist when the batch was accepted{hint}",
                code="model_not_found",
                param="model",
            )
        self.used.add(name)
        chosen = number if number is not None else choose(route.id, route.weights, key)
        if (route.id, chosen) not in self._known:
            spec = self._find(route.id, chosen)
            if spec is None:
                raise InvalidInput(
                    f"the task {name!r} has no version {chosen}", code="model_not_found", param="model"
                )
            self._known[route.id, chosen] = TaskVersion(route.id, name, chosen, TaskSpec.model_validate(spec))
        return self._known[route.id, chosen]
