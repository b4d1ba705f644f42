"""The cases: what is asked, what must be true of the answer, and how many runs of models it may have cost."""

# The order of these imports is the order of the cases, in tests and on the page.
# isort: off
from tests.conformance.cases import running as running
from tests.conformance.cases import predictions as predictions
from tests.conformance.cases import streams as streams
from tests.conformance.cases import ending as ending
from tests.conformance.cases import inputs as inputs
from tests.conformance.cases import webhooks as webhooks
from tests.conformance.cases import errors as errors
from tests.conformance.cases import lasting as lasting
from tests.conformance.cases import lookups as lookups
from tests.conformance.cases.registry import CASES as CASES
from tests.conformance.cases.registry import Case as Case
