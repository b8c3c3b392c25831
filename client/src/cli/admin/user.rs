//! `muster admin user`: who may log in, as what, from where, until when?

use super::edit::{Asked, Options};
use super::list::{List, Output, fetch, joined, or_dash, page};
use crate::cli::password::NewPassword;
use crate::cli::{Context, Failure, run, text};
use clap::{Args, Subcommand};
use muster_protocol::policy::{Edit, Generation, Named, Part, UserFields, UserShown};

const KINDS: [&str; 3] = ["agent", "operator", "service"];
/// Fields that a user can be without.
const OPTIONAL: [&str; 8] =
    ["certificate", "collective", "disabled", "expires", "facts", "groups", "networks", "revoked-before"];

/// `admin user`.
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Add a user
    Add(Add),
    /// Set fields of a user, or take them out; those that are not named stay
    Set(Set),
    /// Give a user a new password; the old one and all tokens of the user are void from then on
    Passwd(Passwd),
    /// Let a disabled user log in again
    Enable(Switch),
    /// Let a user log in no more, and end the user's sessions
    Disable(Switch),
    /// Make all tokens of a user void that were made before now, and end the sessions that were opened by one
    RevokeTokens(RevokeTokens),
    /// Remove a user, and end the user's sessions
    Remove {
        /// Which user
        name: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Show a user
    Show {
        /// Which user
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the users
    List {
        /// Only those in this group
        #[arg(long)]
        group: Option<String>,
        /// Only those of this kind
        #[arg(long, value_parser = KINDS)]
        kind: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

/// `admin user add`.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The new user's name: A-Z a-z 0-9 . _ @ -
    name: String,
    /// An agent is a managed node, an operator a person, a service a program
    #[arg(long, value_parser = KINDS)]
    kind: String,
    #[command(flatten)]
    fields: Fields,
    /// May not log in yet
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    password: NewPassword,
    #[command(flatten)]
    options: Options,
}

/// `admin user set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// Which user
    name: String,
    /// An agent is a managed node, an operator a person, a service a program
    #[arg(long, value_parser = KINDS)]
    kind: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// Take this field out; repeat for more
    #[arg(long, value_name = "FIELD", value_parser = OPTIONAL)]
    unset: Vec<String>,
    #[command(flatten)]
    options: Options,
}

/// What a user may have. Its own `--collective` takes the place of the one that says where requests go to: nothing goes there.
#[derive(Debug, Args)]
struct Fields {
    /// A group that the user is in; repeat it for all of them
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// A network or address that the user may log in from; repeat it for all of them [without: from anywhere]
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// May not log in from then on: a day (00:00 UTC), or a time with its offset
    #[arg(long, value_name = "DATE", value_parser = moment)]
    expires: Option<String>,
    /// The collective of an agent [without: the first one of the policy]
    #[arg(long, value_name = "NAME")]
    collective: Option<String>,
    /// A fact that the policy asserts of an agent: name=text, or name:=JSON; repeat it for all of them
    #[arg(long = "fact", value_name = "NAME=VALUE")]
    facts: Vec<String>,
    /// The name that a client certificate must bear, beside the password
    #[arg(long, value_name = "NAME")]
    certificate: Option<String>,
}

/// `admin user passwd`.
#[derive(Debug, Args)]
pub(crate) struct Passwd {
    /// Whose password
    name: String,
    #[command(flatten)]
    password: NewPassword,
    #[command(flatten)]
    options: Options,
}

/// `admin user enable`, `disable`.
#[derive(Debug, Args)]
pub(crate) struct Switch {
    /// Which user
    name: String,
    #[command(flatten)]
    options: Options,
}

/// `admin user revoke-tokens`.
#[derive(Debug, Args)]
pub(crate) struct RevokeTokens {
    /// Whose tokens
    name: String,
    /// Those made before this moment [default: now, by the clock of this machine]
    #[arg(long, value_name = "DATE", value_parser = moment)]
    before: Option<String>,
    #[command(flatten)]
    options: Options,
}

impl User {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            User::Add(add) => add.run(context).await,
            User::Set(set) => set.options.carry_out(context, Edit::UserSet(set.fields()?)).await,
            User::Passwd(Passwd { name, password, options }) => {
                context.settings()?;
                let password = Some(password.hash(name, &mut context.surface)?);
                options.carry_out(context, Edit::UserSet(UserFields { password, ..named(name) })).await
            }
            User::Enable(Switch { name, options }) => {
                options.carry_out(context, Edit::UserSet(UserFields { disabled: Some(false), ..named(name) })).await
            }
            User::Disable(Switch { name, options }) => {
                options.carry_out(context, Edit::UserSet(UserFields { disabled: Some(true), ..named(name) })).await
            }
            User::RevokeTokens(RevokeTokens { name, before, options }) => {
                let revoked_before = Some(before.clone().unwrap_or_else(now));
                options.carry_out(context, Edit::UserSet(UserFields { revoked_before, ..named(name) })).await
            }
            User::Remove { name, asked } => {
                asked.carry_out(context, Edit::UserRemove(Named { name: name.clone() })).await
            }
            User::Show { name, output } => {
                let answer = fetch(context, Part::Users, Some(name)).await?;
                let list = List { name: Some(name), ..list(&answer.users, answer.generation) };
                list.print(context, output.json, || answer.users.iter().map(described).collect())
            }
            User::List { group, kind, output } => {
                let mut answer = fetch(context, Part::Users, None).await?;
                let is_wanted = |user: &UserShown| {
                    group.as_ref().is_none_or(|group| user.groups.contains(group))
                        && kind.as_ref().is_none_or(|kind| user.kind == *kind)
                };
                answer.users.retain(is_wanted);
                let header = ["NAME", "KIND", "STATE", "GROUPS", "EXPIRES", "NETWORKS"];
                list(&answer.users, answer.generation).table(context, output.json, header, |user| {
                    let expires = or_dash(user.expires.as_ref());
                    let state = state(user).to_owned();
                    [user.name.clone(), user.kind.clone(), state, joined(&user.groups), expires, joined(&user.networks)]
                })
            }
        }
    }
}

impl Add {
    async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let mut fields = self.fields.of(&self.name)?;
        fields.kind = Some(self.kind.clone());
        fields.disabled = self.disabled.then_some(true);
        // Last, and not without settings, so that nothing is typed for an edit that cannot be.
        context.settings()?;
        fields.password = Some(self.password.hash(&self.name, &mut context.surface)?);
        self.options.carry_out(context, Edit::UserAdd(fields)).await
    }
}

impl Set {
    fn fields(&self) -> Result<UserFields, Failure> {
        let mut fields = self.fields.of(&self.name)?;
        fields.kind.clone_from(&self.kind);
        let set = [
            ("certificate", fields.certificate.is_some()),
            ("collective", fields.collective.is_some()),
            ("expires", fields.expires.is_some()),
            ("facts", fields.facts.is_some()),
            ("groups", fields.groups.is_some()),
            ("networks", fields.networks.is_some()),
        ];
        check_unset(&set, &self.unset, fields.kind.is_some(), "user passwd and user disable do the rest")?;
        fields.unset.clone_from(&self.unset);
        Ok(fields)
    }
}

impl Fields {
    fn of(&self, name: &str) -> Result<UserFields, Failure> {
        let some = |names: &Vec<String>| (!names.is_empty()).then(|| names.clone());
        let facts = run::arguments("--fact", &self.facts)?;
        Ok(UserFields {
            groups: some(&self.groups),
            networks: some(&self.networks),
            expires: self.expires.clone(),
            collective: self.collective.clone(),
            facts: (!facts.is_empty()).then_some(facts),
            certificate: self.certificate.clone(),
            ..named(name)
        })
    }
}

/// Whether something is set or unset, and nothing both. `also`: something else is set; `rest` is where else to look.
pub(super) fn check_unset(set: &[(&str, bool)], unset: &[String], also: bool, rest: &str) -> Result<(), Failure> {
    if let Some((both, _)) = set.iter().find(|(field, is_set)| *is_set && unset.iter().any(|name| name == field)) {
        return Err(Failure::Usage(format!("--unset {both}: it is set too; do one of both")));
    }
    if unset.is_empty() && !also && !set.iter().any(|(_, is_set)| *is_set) {
        return Err(Failure::Usage(format!("nothing to set: name a field by its option, or --unset FIELD; {rest}")));
    }
    Ok(())
}

fn named(name: &str) -> UserFields {
    UserFields { name: name.to_owned(), ..UserFields::default() }
}

fn list(users: &[UserShown], generation: Option<Generation>) -> List<'_, UserShown> {
    List { words: ["user", "users", "users"], name: None, generation, members: users }
}

/// By the clock of this machine; the broker goes by its own.
fn state(user: &UserShown) -> &'static str {
    let expires = user.expires.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    match expires {
        _ if user.disabled => "disabled",
        Some(expires) if expires <= jiff::Timestamp::now() => "expired",
        _ => "enabled",
    }
}

fn described(user: &UserShown) -> String {
    let networks = if user.networks.is_empty() { "anywhere".into() } else { joined(&user.networks) };
    page([
        ("user", user.name.clone()),
        ("kind", user.kind.clone()),
        ("state", state(user).to_owned()),
        ("groups", joined(&user.groups)),
        ("from", networks),
        ("expires", or_dash(user.expires.as_ref())),
        ("tokens void before", or_dash(user.revoked_before.as_ref())),
        ("certificate", or_dash(user.certificate.as_ref())),
        ("collective", or_dash(user.collective.as_ref())),
        ("facts", if user.facts.is_empty() { "-".into() } else { String::new() }),
    ]) + &text::body(&user.facts.clone().into(), 2)
}

/// A date or a date-time with offset, as policy.toml takes it.
fn moment(text: &str) -> Result<String, String> {
    let with_time = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.replacen(' ', "T", 1) };
    let is_toml = text.parse::<toml::value::Datetime>().is_ok();
    if is_toml && with_time.parse::<jiff::Timestamp>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("write a day (2027-01-31) or a time with its offset (2027-01-31T18:00:00Z)".into())
}

/// The next whole second, as brokers count: a token of this very second is void too.
fn now() -> String {
    let now = jiff::Timestamp::now().as_second().saturating_add(1);
    jiff::Timestamp::from_second(now).unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_disabled_expired_or_enabled() {
        let state = |disabled, expires: Option<&str>| {
            state(&UserShown { disabled, expires: expires.map(str::to_owned), ..UserShown::default() })
        };
        assert_eq!((state(false, None), state(true, None)), ("enabled", "disabled"));
        assert_eq!(state(false, Some("2020-01-01T00:00:00Z")), "expired");
        assert_eq!(state(true, Some("2020-01-01T00:00:00Z")), "disabled");
        assert_eq!(state(false, Some("9000-01-01T00:00:00Z")), "enabled");
    }

    #[test]
    fn moments_are_those_of_the_policy() {
        for good in ["2027-01-31", "2027-01-31T18:00:00Z", "2027-01-31 18:00:00+01:00", "2027-01-31T18:00:00.5Z"] {
            assert_eq!(moment(good).as_deref(), Ok(good));
        }
        for wrong in ["", "tomorrow", "2027-02-30", "2027-01-31T18:00:00", "18:00:00", "31.01.2027", "2027-01-31Z"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
        assert!(moment(&now()).is_ok(), "{}", now());
    }
}
