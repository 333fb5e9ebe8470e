//! What is wrong with a set of documents, field by field.

use core::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One mistake in one field: where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Which document of the request, counted from 0; `None` where the mistake is in no document of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<usize>,
    /// The line in the text, counted from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The object, as in `port red/a`; empty where the document does not say.
    pub object: String,
    /// The field, as in `spec.addresses[1]`; empty where it is the document as a whole.
    pub path: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for FieldError {
    /// `line 7: port red/a: spec.cidr: WHY: FIX`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.document) {
            (Some(line), _) => write!(f, "line {line}: ")?,
            (None, Some(document)) => write!(f, "document {}: ", document + 1)?,
            (None, None) => {}
        }
        for part in [&self.object, &self.path] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.why)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, ": {}", self.fix) }
    }
}

/// All mistakes of a request. Nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, thiserror::Error)]
pub struct FieldErrors(pub Vec<FieldError>);

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(error, f)?;
        }
        Ok(())
    }
}
