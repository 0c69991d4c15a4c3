"""The running service keeps what its OpenAPI document says, on requests made up from it."""

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import converted
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

LONGEST = 30  # seconds to an answer, on a busy machine
HEALTHY = ["/health", "/ready", "/metrics"]
BOUNDED = settings(
    max_examples=int(os.environ.get("FUZZ_CASES", "25")),
    derandomize="FUZZ_CASES" not in os.environ,  # the same requests in every run
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


PICTURES = [converted(*of) for of in (("RGB", "PNG"), ("RGB", "TIFF"), ("L", "JPEG"), ("P", "PNG"))]


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_url(f"{server[0]}/openapi.json")


@pytest.mark.parametrize("path", HEALTHY)
def test_what_is_watched_answers_as_documented(document, path):
    response = document[path]["GET"].Case().call_and_validate()
    assert response.status_code == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_session_that_is_not_there_is_refused_as_documented(document, method):
    operation = document["/session/{session_id}"][method]
    response = operation.Case(path_parameters={"session_id": "none"}).call_and_validate()
    assert response.status_code == 404


def test_without_a_model_the_answer_is_documented(document):
    assert "503" in document.raw_schema["paths"]["/info/"]["get"]["responses"]


@pytest.mark.parametrize(("path", "field"), [("/segment", "file"), ("/segment/volume", "files")])
def test_slices_are_answered_as_documented(document, path, field):
    sound = document[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE)
    kinds = set()

    @BOUNDED
    @given(sound, st.sampled_from(PICTURES), st.sampled_from(["*/*", "application/json"]))
    def answers(case, content, accept):
        # A document cannot say what a picture is, so the pictures are sound ones.
        case.body = {field: content if field == "file" else [content, content]}
        response = case.call(headers={"Accept": accept})
        case.validate_response(response, excluded_checks=[negative_data_rejection])
        assert response.status_code == 200
        assert response.elapsed < LONGEST
        kinds.update(response.headers["content-type"])

    answers()
    assert len(kinds) == 2


@pytest.mark.parametrize("path", ["/segment", "/segment/volume"])
def test_what_the_document_does_not_allow_is_refused_as_documented(document, path):
    unsound = document[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @BOUNDED
    @given(unsound)
    def refuses(case):
        response = case.call_and_validate()
        assert response.status_code in (400, 415, 422)
        assert response.elapsed < LONGEST

    refuses()
