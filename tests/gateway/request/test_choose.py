"""Which model: named, allowed, served; or by intent, the next one where the first can't have it."""

from tests.gateway.request.support import Worker, deployment
from tokenworks.catalog import ChargingPolicy
from tokenworks.factory import Intent


def asked(worker, **fields):
    from tokenworks.gateway.protocol.fields import parse_body

    request = worker.arrives(**fields)
    request.set_user(worker.user)
    request.set_parsed(parse_body(request.body, request.protocol))
    return request, worker.parts.models.find(request)


def two(**named):
    return Worker(deployment("d1", "big"), deployment("d2", "small"), **named)


def test_a_name_stands_for_a_model_and_its_places():
    request, refusal = asked(two(aliases={"mine": "small"}), model="mine")
    assert refusal is None and request.model == "small"
    assert [place.name for place in request.views] == ["d2"] and request.intent is None


def test_what_a_key_may_not_use_and_what_nobody_serves():
    worker = two()
    worker.user.models = frozenset({"small"})
    assert asked(worker, model="big")[1].code == "model_not_allowed"
    assert asked(worker, model="small")[1] is None
    worker.user.models = None
    request, refusal = asked(worker, model="other")
    assert refusal.status == 404 and not request.views
    request, refusal = asked(worker, model="big", protocol="messages")
    assert refusal is None and request.native == 0 and request.views


def test_an_intent_gets_the_models_that_it_names_one_after_the_other():
    worker = two(intents=[Intent(name="best", models=("big", "small"))])
    request, refusal = asked(worker, model="best")
    assert refusal is None and (request.intent, request.model) == ("best", request.views[0].deployment.model)
    first = request.model
    request.placement_request, request.cuttable = object(), True
    assert worker.parts.models.next_choice(request, "no_deployment")
    assert {first, request.model} == {"big", "small"}
    assert (request.placement_request, request.cuttable) == (None, False)
    assert not worker.parts.models.next_choice(request, "no_deployment")


def test_an_intent_that_no_allowed_model_serves_is_refused():
    worker = two(intents=[Intent(name="best", models=("big",))])
    worker.user.models = frozenset({"small"})
    assert asked(worker, model="best")[1].code in {"model_not_found", "model_not_allowed"}


def test_a_plan_goes_on_with_its_cheaper_model_once_where_that_is_served():
    worker = two()
    worker.user.policy = ChargingPolicy(final_unit="restrict", restrict_to="small")
    request, _ = asked(worker, model="big")
    assert worker.parts.models.restrict(request)
    assert (request.model, request.restricted, request.views[0].name) == ("small", True, "d2")
    assert not worker.parts.models.restrict(request)
    request, _ = asked(worker, model="big")
    request.object_deployment = "d1"  # it goes on with what was made there
    assert not worker.parts.models.restrict(request) and request.model == "big"


def test_the_plans_cheaper_model_has_all_its_attempts():
    worker = two()
    worker.user.policy = ChargingPolicy(final_unit="restrict", restrict_to="small")
    request = worker.held_state(model="big", protocol="messages")
    assert worker.parts.translations.prepare_any(request) is None
    request.tried = ["d1"]
    worker.parts.placements.choose(request)
    assert worker.parts.models.restrict(request)
    assert (request.tried, request.placement_request, request.translated) == ([], None, None)
    assert worker.shared.memory.used == 0
