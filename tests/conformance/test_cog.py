"""The same cases in front of real Cog servers of both dialects, by Python's client; there is nothing direct here."""

from __future__ import annotations

import pytest

from tests.conformance.bench import Mode
from tests.conformance.cases import Case
from tests.conformance.cog_cases import COG_CASES, COG_SUBJECTS
from tests.conformance.suite import Subject, Suite, modes_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ALL = [
    pytest.param(subject, case, mode, id=f"{subject.name}-{case.name}-{mode}")
    for subject in COG_SUBJECTS
    for case in COG_CASES.values()
    for mode in modes_of(subject, case)
]


@pytest.mark.parametrize(("subject", "case", "mode"), ALL)
@pytest.mark.timeout(300)
def test_client_finds_the_api_in_front_of_cog(suite: Suite, subject: Subject, case: Case, mode: Mode) -> None:
    outcome = suite.outcome(subject, case, mode)
    assert outcome.reason is None, f"it says that it cannot: {outcome.reason}"
    if outcome.error is not None:
        raise outcome.error
