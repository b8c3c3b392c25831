//! What does the broker want logged? It writes nothing itself: the hub takes its notes to the log.

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// For whoever follows a request.
    Detail,
    /// The normal course.
    Info,
    /// Somebody should look.
    Warning,
}

/// One log line: a lowercase text with values as fields. Never holds a secret or a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub weight: Weight,
    /// What happened.
    pub text: &'static str,
    /// With whom and what.
    pub fields: Vec<(&'static str, String)>,
}

impl Note {
    /// A note without fields.
    pub fn new(weight: Weight, text: &'static str) -> Note {
        Note { weight, text, fields: Vec::new() }
    }

    /// Adds a field.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Note {
        self.fields.push((name, value.to_string()));
        self
    }
}
