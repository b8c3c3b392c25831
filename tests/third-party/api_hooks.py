"""What does a generated call have to know of this API? Forms of texts, and what would end the test itself."""

import string

import schemathesis
from hypothesis import strategies as st

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True)
FACTS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)
FILTERS = st.one_of(
    st.just("all"),
    st.builds("{}={}".format, FACTS, NAMES),
    st.builds("{} and not {} ~ {}".format, st.builds("{}={}".format, FACTS, NAMES), FACTS, NAMES),
)
# Actions of the collective in which the admin may run every one; no node is there to run them.
DESTINATIONS = st.builds("/topic/prod.{}.{}".format, NAMES, NAMES)
NODES = st.builds("n-{}".format, st.text(string.ascii_lowercase + "234567", min_size=20, max_size=20))
GENERATIONS = st.builds("{}.{}".format, st.integers(0, 2**63), st.integers(0, 2**63))

for name, strategy in [
    ("muster-fact", FACTS),
    ("muster-filter", FILTERS),
    ("muster-destination", DESTINATIONS),
    ("muster-node", NODES),
    ("muster-generation", GENERATIONS),
]:
    schemathesis.openapi.format(name, strategy)


@schemathesis.hook
def filter_case(context, case):
    return not (changes_the_admin(case) or denies_a_form(case))


def changes_the_admin(case):
    """The admin that the test calls as stays who it is: all else would only be refused from then on."""
    return case.method.upper() in ("PUT", "DELETE") and "admin" in (case.path_parameters or {}).values()


def denies_a_form(case):
    """Of the forms above schemathesis knows how to make a text, and not what is none: there it takes every text for wrong.

    Which form is denied a mutation does not say, so that of a time goes with them.
    """
    mutations = getattr(case.meta.phase.data, "mutations", ()) if case.meta else ()
    return any("format" in mutation.keywords for mutation in mutations)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Nobody locks the test's admin out by force; without it the broker refuses to."""
    if isinstance(case.query, dict):
        case.query.pop("force", None)
    if isinstance(case.body, dict) and case.body.get("force") is True:
        case.body["force"] = False
