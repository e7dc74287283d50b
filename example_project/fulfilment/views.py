"""Where the outside world tells its events, one request each."""

import json

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from opentelemetry import trace

from example_project.fulfilment.events import Event, Outcome
from example_project.fulfilment.worker import new_orchestrator


@csrf_exempt  # Events come from machines; who they are would be for a token to say.
@require_POST
def events(request: HttpRequest) -> JsonResponse:
    """Handle an event, once however often it comes. 409: somebody has the order, and the event has to come again."""
    event = _parse(request.body)
    if event is None:
        return JsonResponse(
            {"error": "An event is a JSON object of id, subject and name, which are texts."}, status=400
        )
    trace.get_current_span().set_attribute("order.event", event.name)
    try:
        result = new_orchestrator().handle(event)
    except LookupError as error:
        return JsonResponse({"error": str(error)}, status=400)
    body = {"outcome": result.outcome, "version": result.version}
    return JsonResponse(body, status=409 if result.outcome == Outcome.DENIED else 200)


def _parse(body: bytes) -> Event | None:
    try:
        fields = json.loads(body)
        event = Event(**fields)
    except (TypeError, ValueError):
        return None
    return event if all(isinstance(value, str) for value in fields.values()) else None
