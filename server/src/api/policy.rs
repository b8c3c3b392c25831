//! How is the policy seen and changed? Every call is a question or an edit of `/muster/admin.…`, as the command line sends it.

use super::call::{Call, Query, read};
use super::nodes::{pass_on, query};
use super::problem::Problem;
use super::routes::{Operation, Routes, delete, get, json, post, put};
use super::seats::Caller;
use crate::passwd;
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use muster_protocol::error::Code;
use muster_protocol::message::shown;
use muster_protocol::policy::{
    AuthorityAnswer, AuthorityQuery, DiffAnswer, DiffQuery, Edit, EditAnswer, EditQuery, Generation, GroupFields,
    GroupShown, HistoryAnswer, HistoryQuery, LintAnswer, LintQuery, Member, Named, PAGE_MOST, Part, RevertTo,
    ShowAnswer, ShowQuery, UserFields, UserShown,
};
use muster_protocol::request::{ExplainAnswer, ExplainQuery};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json as object};
use std::collections::BTreeMap;

const SHOW: &str = "/muster/admin.show";
const EDIT: &str = "/muster/admin.edit";
const HISTORY: &str = "/muster/admin.history";
/// Longest reason in a query, characters: the address has to hold it.
const REASON_MOST: usize = 1_000;

/// Every part of a policy, by the word in the path.
const PARTS: [(&str, Part, &str); 6] = [
    ("users", Part::Users, "Users"),
    ("groups", Part::Groups, "Groups"),
    ("acl", Part::Acl, "Entries"),
    ("hidden", Part::Hidden, "Hidden facts"),
    ("collectives", Part::Collectives, "Collectives"),
    ("brokers", Part::Brokers, "Brokers of the list"),
];

/// A user as it is to be. No `Debug`: it may hold a password.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct UserBody {
    /// `agent`, `operator` or `service`. A new user needs one; of one that is there it stays unless given.
    kind: Option<String>,
    /// An argon2id PHC string. A new user needs it, or `new_password`; of one that is there it stays unless one of them is given.
    password: Option<String>,
    /// The password itself: it is hashed here and sent nowhere.
    #[serde(rename = "new_password")]
    #[schema(format = Password, max_length = 1024)]
    new_password: Option<String>,
    /// May not log in.
    disabled: Option<bool>,
    /// A date or date-time with offset.
    expires: Option<String>,
    /// Tokens from before this moment are void.
    revoked_before: Option<String>,
    /// All its networks.
    networks: Option<Vec<String>>,
    /// All its groups.
    groups: Option<Vec<String>>,
    /// The collective of an agent.
    collective: Option<String>,
    /// All asserted facts of an agent.
    #[schema(value_type = Option<Object>)]
    facts: Option<Map<String, Value>>,
    /// The name that a client certificate must bear beside the password.
    certificate: Option<String>,
}

/// A group as it is to be.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
struct GroupBody {
    /// A filter.
    #[schema(format = "muster-filter")]
    scope: Option<String>,
    /// The right to `all`.
    all: Option<bool>,
    /// All members of the hidden list that it sees.
    shows: Option<Vec<String>>,
    /// All its limits, by their names in policy.toml.
    limits: BTreeMap<String, u64>,
}

/// An earlier generation, to be had again.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct RevertBody {
    /// Which; `GET policy/history` lists them.
    to: Generation,
    /// Only if this is still the newest generation.
    generation: Option<Generation>,
    /// Why, for the history.
    #[serde(default)]
    reason: String,
    /// Also if nobody is left who may edit the policy.
    #[serde(default)]
    force: bool,
    /// Only say what it would change.
    #[serde(default)]
    dry_run: bool,
}

/// Why the authority is taken.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct TakeBody {
    /// For the history.
    #[serde(default)]
    reason: String,
}

pub(super) fn add(routes: &mut Routes) {
    for (word, part, what) in PARTS {
        let (list, one) = (format!("/api/v1/policy/{word}"), format!("/api/v1/policy/{word}/{{name}}"));
        let operation = get(list, &format!("list-{word}"), "policy", &format!("{what} of the policy, page by page."));
        let place = match part {
            // In the order of the file: places in it.
            Part::Acl | Part::Hidden | Part::Collectives => object!({ "type": "string", "pattern": "^[0-9]{1,9}$" }),
            Part::Users | Part::Groups | Part::Brokers => object!({ "type": "string" }),
        };
        let operation = operation.writes(SHOW).pages(PAGE_MOST, "Those after", place);
        let operation = operation.answers::<ShowAnswer>("One page.").with_header("ETag", "The generation.");
        routes.add(operation, move |caller, call| list_of(caller, call, part));
        let operation =
            get(one, &format!("one-of-{word}"), "policy", &format!("{what} of the policy: the one of this name."));
        let operation = of_name(operation).writes(SHOW).answers::<ShowAnswer>("A list with this one.");
        let operation = operation.with_header("ETag", "The generation.").refuses(&[404]);
        routes.add(operation, move |caller, call| one_of(caller, call, part));
    }
    edits(routes);
    questions(routes);
}

fn edits(routes: &mut Routes) {
    // A revert names a generation that may not be there.
    let says = |operation: Operation| operation.writes(EDIT).refuses(&[404, 409]);
    let operation = says(post("/api/v1/policy/edit", "editPolicy", "policy", "Changes the policy."));
    let operation =
        operation.says("`generation` makes it compare-and-set: who comes second is told `stale-generation`.");
    let operation = operation.takes::<EditQuery>().answers::<EditAnswer>("What it did, or would do.");
    routes.add(operation.with_header("ETag", "The generation that holds now."), edit);

    let user = "/api/v1/policy/users/{name}";
    let operation =
        changing(put(user, "putUser", "policy", "Makes a user what the body says: a new one, or one that is there."));
    let operation = operation
        .says("What is not in the body is taken out, but for kind and password. Needs `/muster/admin.show` too.")
        .says("Without `If-Match` it is done on the generation that was there when the call came.")
        .header(
            "If-None-Match",
            "`*`: only if there is no such user yet.",
            object!({ "type": "string", "enum": ["*"] }),
        )
        .takes::<UserBody>()
        .answers_with::<EditAnswer>(201, "A new user.")
        .answers::<EditAnswer>("The user is changed, or would be.")
        .refuses(&[412]);
    routes.add(operation, put_user);
    let operation = changing(delete(user, "removeUser", "policy", "Takes a user out: its sessions and tokens end."));
    routes.add(operation.answers::<EditAnswer>("It is gone, or would be."), |caller, call| {
        remove(caller, call, Edit::UserRemove)
    });

    let group = "/api/v1/policy/groups/{name}";
    let operation = changing(put(
        group,
        "putGroup",
        "policy",
        "Makes a group what the body says: a new one, or one that is there.",
    ));
    let operation = operation
        .says("What is not in the body is taken out. Needs `/muster/admin.show` too.")
        .header(
            "If-None-Match",
            "`*`: only if there is no such group yet.",
            object!({ "type": "string", "enum": ["*"] }),
        )
        .takes::<GroupBody>()
        .answers_with::<EditAnswer>(201, "A new group.")
        .answers::<EditAnswer>("The group is changed, or would be.")
        .refuses(&[412]);
    routes.add(operation, put_group);
    let operation =
        changing(delete(group, "removeGroup", "policy", "Takes a group out, of its members and of entries too."));
    routes.add(operation.answers::<EditAnswer>("It is gone, or would be."), |caller, call| {
        remove(caller, call, Edit::GroupRemove)
    });
    let member = "/api/v1/policy/groups/{name}/members/{user}";
    let user = object!({ "type": "string" });
    let operation = changing(put(member, "addMember", "policy", "A user becomes a member of a group."));
    let operation =
        operation.path_text("user", "The user.", user.clone()).answers::<EditAnswer>("It is one, or would be.");
    routes.add(operation, |caller, call| membership(caller, call, Edit::GroupAddMember));
    let operation = changing(delete(member, "removeMember", "policy", "A user is a member of a group no more."));
    let operation = operation.path_text("user", "The user.", user).answers::<EditAnswer>("It is none, or would be.");
    routes.add(operation, |caller, call| membership(caller, call, Edit::GroupRemoveMember));

    let operation =
        says(post("/api/v1/policy/revert", "revertPolicy", "policy", "An earlier generation, as a new one."));
    let operation = operation.takes::<RevertBody>().answers::<EditAnswer>("What it did, or would do.");
    routes.add(operation.with_header("ETag", "The generation that holds now."), revert);
    let operation =
        post("/api/v1/policy/take", "takeAuthority", "policy", "This broker becomes the authority over the policy.");
    let operation = operation.writes("/muster/admin.take").takes::<TakeBody>().refuses(&[409]);
    let operation = operation.answers::<EditAnswer>("It is; the generation is the first of its term.");
    routes.add(operation.with_header("ETag", "The generation that holds now."), take);
}

fn questions(routes: &mut Routes) {
    let operation =
        post("/api/v1/policy/explain", "explainPolicy", "policy", "Whether a user may do something, and by what.");
    let operation = operation.writes("/muster/admin.explain").takes::<ExplainQuery>().refuses(&[404]);
    routes.add(operation.answers::<ExplainAnswer>("Yes or no, with entries, scope and limits."), |caller, call| {
        ask::<ExplainQuery>(caller, call, "/muster/admin.explain")
    });
    let operation = post("/api/v1/policy/diff", "diffPolicy", "policy", "What another policy would grant and take.");
    let operation = operation.writes("/muster/admin.diff").takes::<DiffQuery>();
    routes.add(operation.answers::<DiffAnswer>("Changes and rights."), |caller, call| {
        ask::<DiffQuery>(caller, call, "/muster/admin.diff")
    });
    let operation = post("/api/v1/policy/lint", "lintPolicy", "policy", "What looks wrong in a policy.");
    let operation = operation.writes("/muster/admin.lint").takes::<LintQuery>();
    routes.add(operation.answers::<LintAnswer>("Findings, by line."), |caller, call| {
        ask::<LintQuery>(caller, call, "/muster/admin.lint")
    });
    let operation = get("/api/v1/policy/history", "policyHistory", "policy", "Who changed the policy, when and why.");
    let generation = object!({ "$ref": "#/components/schemas/Generation" });
    let operation = operation.writes(HISTORY).pages(PAGE_MOST, "Those before", generation.clone());
    routes.add(operation.answers::<HistoryAnswer>("Generations, the newest first."), history);
    let operation =
        get("/api/v1/policy/history/{generation}", "policyEdition", "policy", "One generation, with its changes.");
    let operation = operation.writes(HISTORY).path_text("generation", "Which.", generation).refuses(&[404]);
    routes.add(operation.answers::<HistoryAnswer>("A list with this one."), edition);
    let operation = get("/api/v1/policy/authority", "policyAuthority", "policy", "Which broker changes the policy.");
    let operation = operation.writes("/muster/admin.authority");
    routes.add(operation.answers::<AuthorityAnswer>("As this broker sees it."), authority);
}

/// An operation on one thing of the policy.
fn of_name(operation: Operation) -> Operation {
    operation.path_text("name", "Its name; of an entry or a hidden fact its pattern.", object!({ "type": "string" }))
}

/// An operation that changes one thing of the policy.
fn changing(operation: Operation) -> Operation {
    let flag = || object!({ "type": "boolean" });
    of_name(operation)
        .writes(EDIT)
        .header(
            "If-Match",
            "The generation that it is made for, as ETag says it; `*` for any.",
            object!({ "type": "string", "pattern": r#"^(\*|"[0-9]{1,19}\.[0-9]{1,19}")$"# }),
        )
        .query("reason", "Why, for the history.", object!({ "type": "string", "maxLength": REASON_MOST }))
        .query("force", "Also if nobody is left who may edit the policy.", flag())
        .query("dry_run", "Only say what it would change.", flag())
        .refuses(&[409])
}

async fn list_of(caller: Caller, call: Call, what: Part) -> Result<Response, Problem> {
    call.bodiless()?;
    let mut parameters = call.query()?;
    let (limit, after) = (parameters.limit(PAGE_MOST)?, parameters.text("after"));
    parameters.end()?;
    show(&caller, &ShowQuery { what, name: None, after, limit }).await.map(|(_, response)| response)
}

async fn one_of(caller: Caller, call: Call, what: Part) -> Result<Response, Problem> {
    call.no_body()?;
    let name = call.name("name");
    show(&caller, &of_this_name(what, name)).await.map(|(_, response)| response)
}

fn of_this_name(what: Part, name: &str) -> ShowQuery {
    ShowQuery { what, name: Some(name.to_owned()), after: None, limit: None }
}

/// The one thing of the policy that has this name, if there is one, and the answer that shows it.
async fn named(caller: &Caller, what: Part, name: &str) -> Result<Option<(ShowAnswer, Response)>, Problem> {
    match show(caller, &of_this_name(what, name)).await {
        Ok(shown) => Ok(Some(shown)),
        Err(problem) if problem.code == Code::NoSuchName.as_str() => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// Part of the policy, and the answer that shows it.
async fn show(caller: &Caller, question: &ShowQuery) -> Result<(ShowAnswer, Response), Problem> {
    let body = caller.ask(query(SHOW, question)).await?;
    let answer: ShowAnswer = serde_json::from_slice(&body).map_err(unreadable)?;
    let response = tagged(json(StatusCode::OK, body), answer.generation);
    Ok((answer, response))
}

async fn edit(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_query()?;
    let bytes = call.bytes().await?;
    let wanted: EditQuery = read(&bytes)?;
    // serde takes a list for such an edit too: its first member would be the word.
    let is_object = read::<Value>(&bytes)?.get("edit").is_some_and(Value::is_object);
    if !is_object {
        return Err(Problem::body("the body: `edit` is no JSON object"));
    }
    change(&caller, &wanted, StatusCode::OK).await
}

async fn revert(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_query()?;
    let RevertBody { to, generation, reason, force, dry_run } = call.json().await?;
    let wanted = EditQuery { edit: Edit::Revert(RevertTo { to }), generation, reason, force, dry_run };
    change(&caller, &wanted, StatusCode::OK).await
}

/// What a call that changes one thing says beside its body.
#[derive(Debug, PartialEq)]
struct Terms {
    generation: Option<Generation>,
    reason: String,
    force: bool,
    dry_run: bool,
}

impl Terms {
    fn of(call: &Call) -> Result<Terms, Problem> {
        let mut parameters = call.query()?;
        let reason = parameters.text("reason").unwrap_or_default();
        let length = reason.chars().count();
        if length > REASON_MOST {
            return Err(Problem::parameter(format!("reason: {length} characters, at most {REASON_MOST} are possible")));
        }
        let (force, dry_run) = (flag(&mut parameters, "force")?, flag(&mut parameters, "dry_run")?);
        parameters.end()?;
        Ok(Terms { generation: if_match(&call.parts.headers)?, reason, force, dry_run })
    }

    fn edit(self, edit: Edit) -> EditQuery {
        let Terms { generation, reason, force, dry_run } = self;
        EditQuery { edit, generation, reason, force, dry_run }
    }
}

fn flag(parameters: &mut Query, name: &str) -> Result<bool, Problem> {
    let parse = |text: &str| match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    };
    Ok(parameters.parsed(name, "true or false", parse)?.unwrap_or(false))
}

async fn remove(caller: Caller, call: Call, edit: fn(Named) -> Edit) -> Result<Response, Problem> {
    call.bodiless()?;
    let terms = Terms::of(&call)?;
    let named = Named { name: call.name("name").to_owned() };
    change(&caller, &terms.edit(edit(named)), StatusCode::OK).await
}

async fn membership(caller: Caller, call: Call, edit: fn(Member) -> Edit) -> Result<Response, Problem> {
    call.bodiless()?;
    let terms = Terms::of(&call)?;
    let member = Member { group: call.name("name").to_owned(), user: call.name("user").to_owned() };
    change(&caller, &terms.edit(edit(member)), StatusCode::OK).await
}

async fn put_user(caller: Caller, call: Call) -> Result<Response, Problem> {
    let (terms, only_new) = (Terms::of(&call)?, if_none_match(&call.parts.headers)?);
    let (name, front) = (call.name("name").to_owned(), call.front.clone());
    let mut body: UserBody = call.json().await?;
    // Before a hash is computed: whoever may not even look makes nobody compute.
    let (there, generation) = match named(&caller, Part::Users, &name).await? {
        Some((now, _)) => (now.users.into_iter().next(), now.generation),
        None => (None, None),
    };
    refuse_existing(only_new && there.is_some(), &name)?;
    if let Some(password) = body.new_password.take() {
        if body.password.is_some() {
            return Err(Problem::body("password and new_password: give one of them"));
        }
        body.password = Some(hash(&front.hashes, SecretString::from(password)).await?);
    }
    let status = if there.is_none() && !terms.dry_run { StatusCode::CREATED } else { StatusCode::OK };
    let fields = body.fields(name, there.as_ref());
    let edit = if there.is_some() { Edit::UserSet(fields) } else { Edit::UserAdd(fields) };
    let terms = Terms { generation: terms.generation.or(generation), ..terms };
    change(&caller, &terms.edit(edit), status).await
}

async fn put_group(caller: Caller, call: Call) -> Result<Response, Problem> {
    let (terms, only_new) = (Terms::of(&call)?, if_none_match(&call.parts.headers)?);
    let name = call.name("name").to_owned();
    let body: GroupBody = call.json().await?;
    let (there, generation) = match named(&caller, Part::Groups, &name).await? {
        Some((now, _)) => (now.groups.into_iter().next(), now.generation),
        None => (None, None),
    };
    refuse_existing(only_new && there.is_some(), &name)?;
    let status = if there.is_none() && !terms.dry_run { StatusCode::CREATED } else { StatusCode::OK };
    let fields = body.fields(name, there.as_ref());
    let edit = if there.is_some() { Edit::GroupSet(fields) } else { Edit::GroupAdd(fields) };
    let terms = Terms { generation: terms.generation.or(generation), ..terms };
    change(&caller, &terms.edit(edit), status).await
}

fn refuse_existing(exists: bool, name: &str) -> Result<(), Problem> {
    if !exists {
        return Ok(());
    }
    let text = format!("if-none-match: there is one with the name {} already", shown(name));
    let problem = Problem::new(Code::BadEdit, text).cured("Use another name, or leave the header out.");
    Err(problem.with_status(StatusCode::PRECONDITION_FAILED))
}

impl UserBody {
    /// The edit that makes a user, there or not, what the body says.
    fn fields(self, name: String, there: Option<&UserShown>) -> UserFields {
        let mut unset = Vec::new();
        if let Some(there) = there {
            let mut goes = |is_there: bool, field: &str| {
                if is_there {
                    unset.push(field.to_owned());
                }
            };
            goes(there.disabled && self.disabled.is_none(), "disabled");
            goes(there.expires.is_some() && self.expires.is_none(), "expires");
            goes(there.revoked_before.is_some() && self.revoked_before.is_none(), "revoked-before");
            goes(!there.networks.is_empty() && self.networks.is_none(), "networks");
            goes(!there.groups.is_empty() && self.groups.is_none(), "groups");
            goes(there.collective.is_some() && self.collective.is_none(), "collective");
            goes(!there.facts.is_empty() && self.facts.is_none(), "facts");
            goes(there.certificate.is_some() && self.certificate.is_none(), "certificate");
        }
        UserFields {
            name,
            kind: self.kind,
            password: self.password,
            disabled: self.disabled,
            expires: self.expires,
            revoked_before: self.revoked_before,
            networks: self.networks,
            groups: self.groups,
            collective: self.collective,
            facts: self.facts,
            certificate: self.certificate,
            unset,
        }
    }
}

impl GroupBody {
    /// The edit that makes a group, there or not, what the body says.
    fn fields(self, name: String, there: Option<&GroupShown>) -> GroupFields {
        let mut unset = Vec::new();
        if let Some(there) = there {
            let fields = [
                (there.scope.is_some() && self.scope.is_none(), "scope"),
                (there.all && self.all.is_none(), "all"),
                (!there.shows.is_empty() && self.shows.is_none(), "shows"),
            ];
            unset.extend(fields.iter().filter(|(goes, _)| *goes).map(|(_, field)| (*field).to_owned()));
            unset.extend(there.limits.keys().filter(|limit| !self.limits.contains_key(*limit)).cloned());
        }
        GroupFields { name, scope: self.scope, all: self.all, shows: self.shows, limits: self.limits, unset }
    }
}

/// Off the async threads, and few at once: it costs a core and 19 MiB.
async fn hash(places: &tokio::sync::Semaphore, password: SecretString) -> Result<String, Problem> {
    let Ok(_place) = places.try_acquire() else {
        let problem = Problem::new(Code::Busy, "another password is being hashed");
        return Err(problem.again_in(Some(std::time::Duration::from_secs(1))));
    };
    let hashed = tokio::task::spawn_blocking(move || passwd::hash(&password)).await;
    let hashed = hashed.map_err(|_| Problem::new(Code::Internal, "the password could not be hashed"))?;
    hashed.map_err(|error| Problem::body(format!("new_password: {error}")))
}

/// Sends an edit.
async fn change(caller: &Caller, wanted: &EditQuery, status: StatusCode) -> Result<Response, Problem> {
    edited(caller, EDIT, wanted, status).await
}

/// Asks for something that is answered as an edit is.
async fn edited(
    caller: &Caller,
    destination: &str,
    wanted: &impl Serialize,
    status: StatusCode,
) -> Result<Response, Problem> {
    let body = caller.ask(query(destination, wanted)).await?;
    let answer: EditAnswer = serde_json::from_slice(&body).map_err(unreadable)?;
    Ok(tagged(json(status, body), answer.generation))
}

async fn ask<Q>(caller: Caller, call: Call, destination: &'static str) -> Result<Response, Problem>
where
    Q: serde::de::DeserializeOwned + Serialize,
{
    call.no_query()?;
    let question: Q = call.json().await?;
    pass_on(&caller, query(destination, &question)).await
}

async fn history(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.bodiless()?;
    let mut parameters = call.query()?;
    let limit = parameters.limit(PAGE_MOST)?;
    let before = parameters.parsed("before", "a generation, TERM.NUMBER", |text| text.parse().ok())?;
    parameters.end()?;
    pass_on(&caller, query(HISTORY, &HistoryQuery { generation: None, before, limit })).await
}

async fn edition(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_body()?;
    let generation: Generation = call.parsed("generation", "a generation, TERM.NUMBER", |text| text.parse().ok())?;
    let question = HistoryQuery { generation: Some(generation), before: None, limit: None };
    pass_on(&caller, query(HISTORY, &question)).await
}

async fn authority(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_body()?;
    pass_on(&caller, query("/muster/admin.authority", &AuthorityQuery::default())).await
}

async fn take(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_query()?;
    let TakeBody { reason } = call.json().await?;
    edited(&caller, "/muster/admin.take", &AuthorityQuery { reason }, StatusCode::OK).await
}

/// The generation in `If-Match`; none if any will do.
fn if_match(headers: &HeaderMap) -> Result<Option<Generation>, Problem> {
    let mut all = headers.get_all(IF_MATCH).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let text = first.to_str().unwrap_or_default();
    if text == "*" {
        return Ok(None);
    }
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match (inner.and_then(|text| text.parse().ok()), all.next()) {
        (Some(generation), None) => Ok(Some(generation)),
        _ => Err(Problem::parameter(format!("if-match: `{}` is no ETag of a policy, such as \"3.17\"", shown(text)))),
    }
}

/// Whether the call is for a new thing only.
fn if_none_match(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get(IF_NONE_MATCH).map(HeaderValue::as_bytes) {
        None => Ok(false),
        Some(b"*") => Ok(true),
        Some(_) => Err(Problem::parameter("if-none-match: only * is possible")),
    }
}

fn tagged(mut response: Response, generation: Option<Generation>) -> Response {
    let tag = generation.and_then(|generation| HeaderValue::from_str(&format!("\"{generation}\"")).ok());
    if let Some(tag) = tag {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn unreadable(error: serde_json::Error) -> Problem {
    Problem::new(Code::Internal, format!("the broker's answer cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_body_is_taken_out_of_a_user_that_is_there() {
        let there = UserShown {
            name: "alice".into(),
            kind: "operator".into(),
            disabled: true,
            expires: Some("2027-01-01T00:00:00Z".into()),
            groups: vec!["noc".into()],
            ..UserShown::default()
        };
        let body: UserBody =
            serde_json::from_value(object!({ "groups": ["admin"], "revoked-before": "2026-01-01" })).unwrap();
        let fields = body.fields("alice".into(), Some(&there));
        assert_eq!(fields.unset, ["disabled", "expires"]);
        assert_eq!((fields.groups, fields.kind, fields.password), (Some(vec!["admin".to_owned()]), None, None));
        assert_eq!(UserBody::default().fields("bob".into(), None).unset, Vec::<String>::new());
    }

    #[test]
    fn and_of_a_group() {
        let limits = BTreeMap::from([("sessions".to_owned(), 5), ("in-flight".to_owned(), 2)]);
        let there = GroupShown { name: "noc".into(), all: true, limits, ..GroupShown::default() };
        let body: GroupBody = serde_json::from_value(object!({ "limits": { "sessions": 9 } })).unwrap();
        let fields = body.fields("noc".into(), Some(&there));
        assert_eq!(
            (fields.unset, fields.limits),
            (vec!["all".to_owned(), "in-flight".into()], BTreeMap::from([("sessions".to_owned(), 9)]))
        );
    }

    #[test]
    fn a_condition_is_one_generation() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_MATCH, value.parse().unwrap());
            }
            if_match(&headers).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!((of(&[]), of(&["*"])), (Ok(None), Ok(None)));
        assert_eq!(of(&["\"3.17\""]), Ok(Some(Generation { term: 3, number: 17 })));
        for wrong in
            [&["3.17"][..], &["W/\"3.17\""], &["\"3.17\", \"3.18\""], &["\"3.17\"", "\"3.18\""], &["\"\""], &[""]]
        {
            assert_eq!(of(wrong), Err(400), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_new_password_is_hashed_here_and_one_at_a_time() {
        let places = tokio::sync::Semaphore::new(1);
        let phc = hash(&places, SecretString::from("correct horse")).await.unwrap();
        assert!(passwd::verify(&phc, &SecretString::from("correct horse")));
        assert_eq!(hash(&places, SecretString::from("")).await.unwrap_err().status.as_u16(), 400);
        let _busy = places.try_acquire().unwrap();
        assert_eq!(hash(&places, SecretString::from("x")).await.unwrap_err().status.as_u16(), 503);
    }
}
