//! Which facts may this user not see, or ask about?

use muster_protocol::facts::{Path, PathPattern};
use muster_protocol::filter::Filter;
use serde_json::{Map, Value};

/// What is hidden when the policy has no `hidden` list: what names or locates a machine rather than describes it.
pub const HIDDEN_BY_DEFAULT: [&str; 12] = [
    "hostname",
    "fqdn",
    "domain",
    "network.**",
    "networking.**",
    "ipaddress*",
    "macaddress*",
    "interfaces",
    "clientcert",
    "trusted.**",
    "dmi.**",
    "ssh.**",
];

/// The fact patterns that are hidden from a user: the policy's list without what the user's groups are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hidden(Vec<PathPattern>);

impl Hidden {
    pub(super) fn new(patterns: Vec<PathPattern>) -> Hidden {
        Hidden(patterns)
    }

    /// Whether nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns.
    pub fn patterns(&self) -> &[PathPattern] {
        &self.0
    }

    /// Whether a value at this path is left out of what the user sees: the path is hidden, or below what is.
    pub fn hides(&self, path: &Path) -> bool {
        self.0.iter().any(|pattern| pattern.matches(path))
    }

    /// Whether asking about this path is refused: it is hidden, below what is, or above it (`has network` tells something
    /// about `network.ip`).
    pub fn touches(&self, path: &Path) -> bool {
        self.0.iter().any(|pattern| pattern.touches(path))
    }

    /// The first path of a filter that the user may not ask about.
    pub fn first_in<'f>(&self, filter: &'f Filter) -> Option<&'f Path> {
        filter.paths().find(|path| self.touches(path))
    }

    /// A copy of facts without what is hidden. An object or list of which nothing is left goes too, so that its emptiness
    /// tells nothing, and so does one that was empty, where something hidden could have been in it; the document itself stays an
    /// object.
    pub fn redact(&self, facts: &Value) -> Value {
        if self.is_empty() {
            return facts.clone();
        }
        self.kept(facts, &mut Vec::new()).unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// Whether a change of facts is one of what the user sees.
    pub fn shows_change(&self, old: &Value, new: &Value) -> bool {
        if self.is_empty() { old != new } else { self.redact(old) != self.redact(new) }
    }

    fn kept<'v>(&self, value: &'v Value, names: &mut Vec<&'v str>) -> Option<Value> {
        match value {
            Value::Object(members) if members.is_empty() => self.kept_empty(value, names),
            Value::Array(elements) if elements.is_empty() => self.kept_empty(value, names),
            Value::Object(members) => {
                let mut kept = Map::new();
                for (name, member) in members {
                    names.push(name);
                    // A name that no path can spell can be neither hidden nor asked for: it does not get out.
                    let seen = Path::from_segments(names.iter().copied()).is_some_and(|path| !self.hides(&path));
                    if let Some(member) = seen.then(|| self.kept(member, names)).flatten() {
                        kept.insert(name.clone(), member);
                    }
                    names.pop();
                }
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            Value::Array(elements) => {
                let kept: Vec<Value> = elements.iter().filter_map(|element| self.kept(element, names)).collect();
                (!kept.is_empty()).then_some(Value::Array(kept))
            }
            other => Some(other.clone()),
        }
    }

    /// An empty object or list tells that nothing hidden is in it.
    fn kept_empty(&self, value: &Value, names: &[&str]) -> Option<Value> {
        let tells = Path::from_segments(names.iter().copied()).is_some_and(|path| self.touches(&path));
        (!tells).then(|| value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn default_list() -> Hidden {
        Hidden::new(HIDDEN_BY_DEFAULT.iter().map(|text| PathPattern::parse(text).unwrap()).collect())
    }

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    #[test]
    fn hidden_is_at_or_below_and_asking_is_refused_above_too() {
        let hidden = default_list();
        for text in ["hostname", "network.ip", "network", "ipaddress_eth0", "ipaddress6.x", "interfaces"] {
            assert!(hidden.hides(&path(text)), "{text}");
        }
        for text in ["os.family", "hostnames", "net", "cpu.count"] {
            assert!(!hidden.touches(&path(text)), "{text}");
        }
        let deep = Hidden::new(vec![PathPattern::parse("os.secret").unwrap()]);
        assert!(deep.touches(&path("os")) && !deep.hides(&path("os")));
        let filter = Filter::parse("cpu.count>=8 and (customer=a or not has network)").unwrap();
        assert_eq!(hidden.first_in(&filter), Some(&path("network")));
        assert_eq!(hidden.first_in(&Filter::parse("class ~ web").unwrap()), None);
    }

    #[test]
    fn redaction_leaves_no_trace() {
        let facts = json!({"hostname": "web1", "network": {"ip": "192.0.2.1"}, "os": {"family": "Debian"}, "tags": [], "l": [{"x": 1}]});
        assert_eq!(default_list().redact(&facts), json!({"os": {"family": "Debian"}, "tags": [], "l": [{"x": 1}]}));
        assert_eq!(Hidden::default().redact(&facts), facts);
        let listed = Hidden::new(vec![PathPattern::parse("l.x").unwrap()]);
        assert_eq!(listed.redact(&json!({"l": [{"x": 1}, {"x": 2}]})), json!({}));
        for nothing_hidden in [json!({"l": []}), json!({"l": {}}), json!({"l": [{}, {"x": 1}]})] {
            assert_eq!(listed.redact(&nothing_hidden), json!({}), "as if there were something hidden in it");
        }
        assert_eq!(listed.redact(&json!({"m": {}, "l": [{"y": []}, {}]})), json!({"m": {}, "l": [{"y": []}]}));
    }
}
