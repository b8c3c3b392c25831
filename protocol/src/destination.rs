//! What is the name of a destination, which names does a pattern match, and does one set of names lie within others?
//!
//! A destination is a prefix that says its kind (`/topic/`) and a name: segments joined by dots (`prod.service.restart`).
//! In a pattern the segment `*` stands for any one segment, and `>`, at the end only, for zero or more: `a.>` matches `a`.

use std::fmt;
use std::sync::Arc;

/// Segments of a name or a pattern.
pub const MAX_SEGMENTS: usize = 16;
/// Bytes of a name or a pattern, the prefix not counted.
pub const MAX_NAME_BYTES: usize = 255;

/// What happens to a message at a destination; on the wire it is the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `/topic/`: to all subscribers.
    Topic,
    /// `/queue/`: to one consumer.
    Queue,
    /// `/muster/`: to the broker itself.
    Muster,
    /// `/temp-queue/`: a connection's own reply queue, as that connection calls it.
    TempQueue,
    /// `/remote-temp-queue/`: the same, as the whole mesh calls it.
    RemoteTempQueue,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Topic, Self::Queue, Self::Muster, Self::TempQueue, Self::RemoteTempQueue];

    /// The beginning of the wire text, with both slashes.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Topic => "/topic/",
            Self::Queue => "/queue/",
            Self::Muster => "/muster/",
            Self::TempQueue => "/temp-queue/",
            Self::RemoteTempQueue => "/remote-temp-queue/",
        }
    }

    /// Reply queues belong to one connection, so that no pattern may match more than one.
    fn is_private(self) -> bool {
        matches!(self, Self::TempQueue | Self::RemoteTempQueue)
    }
}

/// The name of one destination. A clone shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination(Text);

impl Destination {
    /// From the wire text, such as `/topic/prod.service.restart`. Wildcards are refused.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let text = Text::parse(text)?;
        if let Some(at) = text.segments().position(is_wildcard) {
            return Err(DestinationError::WildcardInName { segment: at + 1 });
        }
        Ok(Self(text))
    }

    /// The topic at which a module's action is asked for: `/topic/<collective>.<module>.<action>`. Each part is one segment.
    pub fn action(collective: &str, module: &str, action: &str) -> Result<Self, DestinationError> {
        let parts = [collective, module, action];
        if let Some(at) = parts.iter().position(|part| part.contains('.')) {
            return Err(DestinationError::DotInPart { segment: at + 1 });
        }
        Self::parse(&format!("/topic/{collective}.{module}.{action}"))
    }

    /// Collective, module and action, if it is a topic of exactly three segments.
    pub fn as_action(&self) -> Option<(&str, &str, &str)> {
        let mut parts = self.segments();
        let all = (parts.next()?, parts.next()?, parts.next()?);
        (self.kind() == Kind::Topic && parts.next().is_none()).then_some(all)
    }

    /// What the prefix says.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What follows the prefix.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// The parts of the name between the dots; at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.segments()
    }

    /// The wire text, shared as a clone shares it.
    pub fn text(&self) -> Arc<str> {
        self.0.whole.clone()
    }

    /// The wire text.
    pub fn as_str(&self) -> &str {
        &self.0.whole
    }
}

/// A set of destinations of one kind. A clone shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Text);

impl Pattern {
    /// From the wire text, such as `/topic/prod.*.status`. Without a wildcard it matches one destination.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let text = Text::parse(text)?;
        if text.kind.is_private()
            && let Some(at) = text.segments().position(is_wildcard)
        {
            return Err(DestinationError::WildcardInPrivate { segment: at + 1 });
        }
        let last = text.segments().count() - 1;
        let rest = text.segments().position(|segment| segment == ">");
        match rest {
            Some(at) if at < last => Err(DestinationError::RestNotLast { segment: at + 1 }),
            _ => Ok(Self(text)),
        }
    }

    /// Whether the destination is in the set.
    pub fn matches(&self, destination: &Destination) -> bool {
        if self.is_concrete() {
            return self.0 == destination.0;
        }
        self.kind() == destination.kind() && matches(self.segments(), destination.segments())
    }

    /// Whether it holds no wildcard, and so matches exactly one destination.
    pub fn is_concrete(&self) -> bool {
        // Wildcards are never part of a segment, so that looking for the characters is enough.
        !self.0.name().bytes().any(|byte| matches!(byte, b'*' | b'>'))
    }

    /// What the prefix says.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What follows the prefix.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// The parts of the name between the dots, wildcards among them; at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.segments()
    }

    /// The wire text.
    pub fn as_str(&self) -> &str {
        &self.0.whole
    }
}

/// The set of one destination.
impl From<Destination> for Pattern {
    fn from(destination: Destination) -> Self {
        Self(destination.0)
    }
}

/// Whether every destination that `wanted` matches is matched by at least one of `by`.
///
/// It is exact, the limits included: `a.>` lies within `a`, `a.*` and `a.*.*.>` together, and `>` within `*.>`, since
/// no name is empty. (It could say no wrongly only if `by` named all 91 one-letter segments, where names get longer than 255 bytes; never yes.)
///
/// For each length that `wanted` allows, one name is tried: its literals, and for each wildcard a segment that occurs
/// nowhere else. It belongs to `wanted`, so something must match it. And whatever matches it does so with wildcards in
/// those places, so that it matches every other name of that length in `wanted` too. Hence no entry ever needs
/// another's help within a length, and no automata are needed: at most 16 lengths × 16 segments × `by`.
pub fn covered(wanted: &Pattern, by: &[&Pattern]) -> bool {
    let mut fixed: Vec<Sample<'_>> = wanted.segments().map(Sample::from).collect();
    let open = fixed.pop_if(|last| *last == Sample::Rest).is_some();
    let shortest = fixed.len().max(1); // a name has at least one segment
    let longest = if open { MAX_SEGMENTS } else { shortest };
    (shortest..=longest).all(|length| {
        fixed.resize(length, Sample::Any);
        if least_bytes(&fixed) > MAX_NAME_BYTES {
            return true; // there is no such name
        }
        let has = |entry: &&Pattern| entry.kind() == wanted.kind() && entry.has(&fixed);
        by.iter().any(has)
    })
}

/// A segment of the name that stands for all names of its length in a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sample<'a> {
    Literal(&'a str),
    /// A segment that no pattern names; only wildcards match it.
    Any,
    Rest,
}

impl<'a> From<&'a str> for Sample<'a> {
    fn from(segment: &'a str) -> Self {
        match segment {
            "*" => Self::Any,
            ">" => Self::Rest,
            literal => Self::Literal(literal),
        }
    }
}

impl Pattern {
    fn has(&self, sample: &[Sample<'_>]) -> bool {
        matches(
            self.segments(),
            sample.iter().map(|segment| match segment {
                Sample::Literal(literal) => literal,
                // Equal to no literal, since a segment is never empty.
                Sample::Any | Sample::Rest => "",
            }),
        )
    }
}

/// The shortest name of this shape.
fn least_bytes(sample: &[Sample<'_>]) -> usize {
    let segment = |it: &Sample<'_>| match it {
        Sample::Literal(literal) => literal.len(),
        Sample::Any | Sample::Rest => 1,
    };
    sample.iter().map(segment).sum::<usize>() + sample.len().saturating_sub(1)
}

/// One walk, without going back: `>` is last, so that it never leaves a choice.
fn matches<'a>(mut pattern: impl Iterator<Item = &'a str>, mut name: impl Iterator<Item = &'a str>) -> bool {
    loop {
        match (pattern.next(), name.next()) {
            (Some(">"), _) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(segment)) if wanted == segment => {}
            _ => return false,
        }
    }
}

fn is_wildcard(segment: &str) -> bool {
    segment == "*" || segment == ">"
}

/// Why a text names no destination, or is no pattern. Segments and bytes of the name count from 1. The text itself isn't quoted: it may be long or hostile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// None of the five prefixes.
    #[error("a destination begins with /topic/, /queue/, /muster/, /temp-queue/ or /remote-temp-queue/")]
    UnknownKind,
    /// Nothing behind the prefix.
    #[error("the name of the destination is empty; put a name behind {prefix}")]
    NoName {
        /// The prefix that was given.
        prefix: &'static str,
    },
    /// More bytes than allowed.
    #[error("the name of the destination has {bytes} bytes, {MAX_NAME_BYTES} are allowed; shorten it")]
    TooLong {
        /// Of the name, without the prefix.
        bytes: usize,
    },
    /// More segments than allowed.
    #[error("the name of the destination has {segments} segments, {MAX_SEGMENTS} are allowed; use fewer dots")]
    TooManySegments {
        /// As given.
        segments: usize,
    },
    /// Two dots in a row, or one at an end.
    #[error("segment {segment} of the destination is empty; put one dot between segments, and none at the ends")]
    EmptySegment {
        /// Which one.
        segment: usize,
    },
    /// White space or a control character, in any script.
    #[error("byte {byte} of the destination's name is white space or a control character; remove it")]
    Unprintable {
        /// Where it begins.
        byte: usize,
    },
    /// Such as `web*`.
    #[error(
        "segment {segment} of the destination holds a wildcard beside other characters; `*` and `>` stand for whole segments"
    )]
    PartialWildcard {
        /// Which one.
        segment: usize,
    },
    /// Such as `a.>.b`.
    #[error(
        "`>` is segment {segment} of the destination, but not the last; use `*` for one segment, and `>` at the end only"
    )]
    RestNotLast {
        /// Which one.
        segment: usize,
    },
    /// A wildcard where one destination must be named.
    #[error(
        "segment {segment} of the destination is a wildcard; name one destination here, patterns are for subscriptions and ACL entries"
    )]
    WildcardInName {
        /// Which one.
        segment: usize,
    },
    /// A wildcard over reply queues.
    #[error(
        "segment {segment} of the destination is a wildcard; temporary queues belong to one connection and are only named in full"
    )]
    WildcardInPrivate {
        /// Which one.
        segment: usize,
    },
    /// A collective, module or action of more than one segment.
    #[error("part {segment} of collective, module and action holds a dot; each is one segment")]
    DotInPart {
        /// 1 is the collective, 2 the module, 3 the action.
        segment: usize,
    },
}

/// What names and patterns have in common: a checked text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Text {
    kind: Kind,
    whole: Arc<str>,
}

impl Text {
    fn parse(text: &str) -> Result<Self, DestinationError> {
        let known = |kind: Kind| Some((kind, text.strip_prefix(kind.prefix())?));
        let (kind, name) = Kind::ALL.into_iter().find_map(known).ok_or(DestinationError::UnknownKind)?;
        check_name(kind, name)?;
        let whole = Arc::from(text);
        Ok(Self { kind, whole })
    }

    fn name(&self) -> &str {
        self.whole.get(self.kind.prefix().len()..).unwrap_or_default()
    }

    fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        let mut rest = Some(self.name());
        // Segments are short: a search that is made for long texts takes longer to begin than this one to end.
        std::iter::from_fn(move || {
            let text = rest?;
            let dot = text.bytes().position(|byte| byte == b'.');
            let (segment, behind) = dot.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
            rest = behind;
            Some(segment)
        })
    }
}

fn check_name(kind: Kind, name: &str) -> Result<(), DestinationError> {
    use DestinationError as E;
    if name.is_empty() {
        let prefix = kind.prefix();
        return Err(E::NoName { prefix });
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(E::TooLong { bytes: name.len() });
    }
    let unprintable = |char: char| char.is_control() || char.is_whitespace();
    if let Some(at) = name.find(unprintable) {
        return Err(E::Unprintable { byte: at + 1 });
    }
    let segments = name.split('.').count();
    if segments > MAX_SEGMENTS {
        return Err(E::TooManySegments { segments });
    }
    for (segment, text) in (1..).zip(name.split('.')) {
        if text.is_empty() {
            return Err(E::EmptySegment { segment });
        }
        if text.contains(['*', '>']) && !is_wildcard(text) {
            return Err(E::PartialWildcard { segment });
        }
    }
    Ok(())
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({})", self.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn destination(name: &str) -> Destination {
        Destination::parse(&format!("/topic/{name}")).unwrap()
    }

    fn pattern(name: &str) -> Pattern {
        Pattern::parse(&format!("/topic/{name}")).unwrap()
    }

    fn is_covered(wanted: &str, by: &[&str]) -> bool {
        let by: Vec<Pattern> = by.iter().map(|name| pattern(name)).collect();
        covered(&pattern(wanted), &by.iter().collect::<Vec<_>>())
    }

    #[test]
    fn each_kind_has_its_prefix() {
        for kind in Kind::ALL {
            let text = format!("{}a.b", kind.prefix());
            let parsed = Destination::parse(&text).unwrap();
            assert_eq!((parsed.kind(), parsed.name()), (kind, "a.b"));
            assert_eq!(parsed.to_string(), text);
            assert_eq!(parsed.segments().collect::<Vec<_>>(), ["a", "b"]);
        }
    }

    #[test]
    fn what_is_no_name() {
        use DestinationError as E;
        let of = |text: &str| Destination::parse(text).unwrap_err();
        for text in ["", "a", "topic/a", "/topic", "/topics/a", "/Topic/a", " /topic/a", "/temp-topic/a"] {
            assert_eq!(of(text), E::UnknownKind, "{text}");
        }
        assert_eq!(of("/queue/"), E::NoName { prefix: "/queue/" });
        assert_eq!(of("/topic/."), E::EmptySegment { segment: 1 });
        assert_eq!(of("/topic/a..b"), E::EmptySegment { segment: 2 });
        assert_eq!(of("/topic/a.b."), E::EmptySegment { segment: 3 });
        for text in
            ["/topic/a b", "/topic/a\n", "/topic/a\0", "/topic/a\u{85}", "/topic/a\u{2028}b", "/topic/a\u{3000}"]
        {
            assert_eq!(of(text), E::Unprintable { byte: 2 }, "{text:?}");
        }
        assert_eq!(of("/topic/a.b*"), E::PartialWildcard { segment: 2 });
        assert_eq!(of("/topic/>>"), E::PartialWildcard { segment: 1 });
        assert_eq!(of("/topic/a.*"), E::WildcardInName { segment: 2 });
        assert_eq!(of("/topic/>"), E::WildcardInName { segment: 1 });
    }

    #[test]
    fn limits_hold_to_the_byte() {
        use DestinationError as E;
        let name = |segments: usize| format!("/topic/{}", vec!["a"; segments].join("."));
        assert!(Destination::parse(&name(16)).is_ok());
        let error = Destination::parse(&name(17)).unwrap_err();
        assert_eq!(error, E::TooManySegments { segments: 17 });
        assert!(Destination::parse(&format!("/topic/{}", "é".repeat(127))).is_ok());
        let error = Destination::parse(&format!("/topic/{}", "é".repeat(128))).unwrap_err();
        assert_eq!(error, E::TooLong { bytes: 256 });
    }

    #[test]
    fn what_is_no_pattern() {
        use DestinationError as E;
        let of = |text: &str| Pattern::parse(text).unwrap_err();
        assert_eq!(of("/topic/a.>.b"), E::RestNotLast { segment: 2 });
        assert_eq!(of("/topic/>.>"), E::RestNotLast { segment: 1 });
        assert_eq!(of("/topic/a.b>"), E::PartialWildcard { segment: 2 });
        assert_eq!(of("/temp-queue/a.*"), E::WildcardInPrivate { segment: 2 });
        assert_eq!(of("/remote-temp-queue/>"), E::WildcardInPrivate { segment: 1 });
        assert!(Pattern::parse("/remote-temp-queue/noc1.0f3a").is_ok());
    }

    #[test]
    fn actions_are_topics_of_three_segments() {
        let restart = Destination::action("prod", "service", "restart").unwrap();
        assert_eq!(restart.to_string(), "/topic/prod.service.restart");
        assert_eq!(restart.as_action(), Some(("prod", "service", "restart")));
        for other in ["/topic/a.b", "/topic/a.b.c.d", "/queue/a.b.c"] {
            assert_eq!(Destination::parse(other).unwrap().as_action(), None);
        }
        let refused = |a, b, c| Destination::action(a, b, c).unwrap_err();
        assert_eq!(refused("a", "b.c", "d"), DestinationError::DotInPart { segment: 2 });
        assert_eq!(refused("a", "", "d"), DestinationError::EmptySegment { segment: 2 });
        assert_eq!(refused("a", "b", "*"), DestinationError::WildcardInName { segment: 3 });
    }

    #[test]
    fn matching() {
        let table = [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.b", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.>", "a", true),
            ("a.>", "a.b.c", true),
            ("a.>", "ab", false),
            ("a.*.>", "a", false),
            ("a.*.>", "a.b", true),
            (">", "a.b", true),
        ];
        for (wanted, name, expected) in table {
            let got = pattern(wanted).matches(&destination(name));
            assert_eq!(got, expected, "{wanted} {name}");
        }
        let queue = Destination::parse("/queue/a.b").unwrap();
        assert!(!pattern(">").matches(&queue) && !pattern("a.b").matches(&queue));
        assert!(pattern("a.b").is_concrete() && !pattern("a.*").is_concrete());
    }

    #[test]
    fn containment() {
        assert!(is_covered("a.>", &["a", "a.*", "a.*.*.>"]));
        assert!(is_covered("a.>", &["a", "a.*.>"]));
        assert!(!is_covered("a.>", &["a.*", "a.*.*.>"]), "a itself");
        assert!(!is_covered("a.>", &["a", "a.*.*.>"]), "a.x");
        assert!(is_covered(">", &["*.>"]), "no name is empty");
        assert!(!is_covered("*.x", &["a.x", "b.x", "c.x"]));
        assert!(is_covered("*.x", &["a.x", "*.*"]));
        assert!(!is_covered("*.*", &["*.x", "x.*"]));
        assert!(is_covered("a.b", &["a.*"]) && !is_covered("a.*", &["a.b"]));
        assert!(!is_covered("a", &[]));
        let queues = Pattern::parse("/queue/>").unwrap();
        assert!(!covered(&pattern("a"), &[&queues]));
    }

    #[test]
    fn containment_knows_the_limits() {
        let lengths: Vec<String> = (1..=16).map(|length| vec!["*"; length].join(".")).collect();
        let lengths: Vec<&str> = lengths.iter().map(String::as_str).collect();
        assert!(is_covered(">", &lengths), "there are no names of 17 segments");
        assert!(!is_covered(">", &lengths[..15]));
        let long = "x".repeat(252);
        let (open, one_more) = (format!("{long}.>"), format!("{long}.*"));
        assert!(is_covered(&open, &[&long, &one_more]), "no third fits into 255 bytes");
        assert!(!is_covered(&open, &[&long]));
    }

    /// All names of up to five segments over two literals and one that no pattern holds.
    fn all_names() -> Vec<Destination> {
        let (mut all, mut last) = (Vec::new(), vec![String::new()]);
        for _ in 0..5 {
            let longer = |name: &String| ["a", "b", "fresh"].map(|it| format!("{name}.{it}"));
            last = last.iter().flat_map(longer).collect();
            all.extend(last.iter().map(|name| destination(&name[1..])));
        }
        all
    }

    /// Up to four segments: names of five then stand for all longer ones.
    fn small_pattern() -> impl Strategy<Value = Pattern> {
        let segments = vec(select(&["a", "b", "*", "*"][..]), 0..4);
        (segments, any::<bool>()).prop_map(|(mut segments, open)| {
            if open || segments.is_empty() {
                segments.push(">");
            }
            pattern(&segments.join("."))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn containment_agrees_with_trying_every_name(
            wanted in small_pattern(),
            by in vec(small_pattern(), 0..7),
        ) {
            thread_local!(static NAMES: Vec<Destination> = all_names());
            let expected = NAMES.with(|names| {
                let mut names = names.iter().filter(|name| wanted.matches(name));
                names.all(|name| by.iter().any(|entry| entry.matches(name)))
            });
            prop_assert_eq!(covered(&wanted, &by.iter().collect::<Vec<_>>()), expected);
        }

        #[test]
        fn a_concrete_pattern_is_covered_by_what_matches_it(
            name in vec(select(&["a", "b", "c"][..]), 1..5),
            by in small_pattern(),
        ) {
            let name = destination(&name.join("."));
            let expected = by.matches(&name);
            prop_assert_eq!(covered(&Pattern::from(name), &[&by]), expected);
        }

        #[test]
        fn what_is_printed_is_parsed(by in small_pattern(), name in "[^\\s\\pC.*>]{1,20}(\\.[^\\s\\pC.*>]{1,8}){0,4}") {
            prop_assert_eq!(Pattern::parse(&by.to_string()), Ok(by));
            if let Ok(name) = Destination::parse(&format!("/queue/{name}")) {
                prop_assert_eq!(Destination::parse(&name.to_string()), Ok(name));
            }
        }

        #[test]
        fn no_text_panics(text in "(/(topic|queue|temp-queue)/)?[a.*>\\PC\\n ]{0,40}") {
            let _ = Destination::parse(&text);
            if let Ok(any) = Pattern::parse(&text) {
                prop_assert!(covered(&any, &[&any]));
                prop_assert_eq!(any.is_concrete(), Destination::parse(&text).is_ok());
            }
        }
    }
}
