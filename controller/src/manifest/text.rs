//! From a text, YAML or JSON, to documents with the line of every field.
//!
//! YAML is first read into a tree that knows lines, then turned into JSON values, so that both forms take one way from
//! here on. Of a text whose syntax is broken only that is told: where documents begin is not known any more.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use weft_api::object::{FieldError, FieldErrors};

/// The longest text, in bytes.
pub const TEXT_LEN_MAX: usize = 16 << 20;
/// Documents in one text at most.
pub const DOCUMENTS_MAX: usize = 100_000;
/// How deep a document may be nested; ours are five deep.
const DEPTH_MAX: usize = 32;

/// One document of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// The line of every field, by its path; empty for JSON.
    lines: BTreeMap<String, u64>,
}

impl Document {
    /// A document that comes from no text.
    pub fn from_value(value: Value) -> Self {
        Self { value, lines: BTreeMap::new() }
    }

    /// The line of the field, or of the nearest one around it.
    pub fn line(&self, path: &str) -> Option<u64> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.lines.get("").copied(),
            }
        }
    }
}

/// Splits a text into documents. A list at the top stands for its items.
pub fn documents(text: &str) -> Result<Vec<Document>, FieldErrors> {
    if text.len() > TEXT_LEN_MAX {
        return Err(refuse(None, format!("the text is {} bytes long", text.len()), "send it in parts of up to 16 MiB"));
    }
    let documents = match json_values(text) {
        Some(values) => values.into_iter().map(Document::from_value).collect(),
        None => yaml_documents(text)?,
    };
    if documents.len() > DOCUMENTS_MAX {
        let why = format!("there are {} documents", documents.len());
        return Err(refuse(None, why, "send up to 100000 at once"));
    }
    Ok(documents)
}

/// The values of a JSON text: one, several one after the other, or a list of them.
fn json_values(text: &str) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.ok()? {
            Value::Array(items) => values.extend(items),
            value => values.push(value),
        }
    }
    Some(values)
}

fn yaml_documents(text: &str) -> Result<Vec<Document>, FieldErrors> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: 4_000_000,
            max_aliases: 1000,
            max_documents: DOCUMENTS_MAX,
        },
        strict_booleans: true,
        with_snippet: false,
    };
    let nodes: Vec<Node> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let why = error.without_snippet().to_string();
        let why = why.lines().next().unwrap_or("cannot be read").to_owned();
        refuse(line, format!("this is not YAML that can be read: {why}"), "correct the text there")
    })?;
    let mut documents = Vec::new();
    for node in nodes {
        match node.kind {
            NodeKind::List(items) => documents.extend(items.into_iter().map(Node::into_document)),
            _ => documents.push(node.into_document()),
        }
    }
    Ok(documents)
}

fn refuse(line: Option<u64>, why: String, fix: &str) -> FieldErrors {
    let error =
        FieldError { document: None, line, object: String::new(), path: String::new(), why, fix: fix.to_owned() };
    FieldErrors(vec![error])
}

/// A YAML value that knows its line.
struct Node {
    line: u64,
    kind: NodeKind,
}

enum NodeKind {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    fn into_document(self) -> Document {
        let mut lines = BTreeMap::new();
        let value = self.into_value(String::new(), &mut lines);
        Document { value, lines }
    }

    fn into_value(self, path: String, lines: &mut BTreeMap<String, u64>) -> Value {
        lines.insert(path.clone(), self.line);
        match self.kind {
            NodeKind::Scalar(value) => value,
            NodeKind::List(items) => {
                let item = |(index, item): (usize, Self)| item.into_value(format!("{path}[{index}]"), lines);
                Value::Array(items.into_iter().enumerate().map(item).collect())
            }
            NodeKind::Map(fields) => {
                let mut map = Map::new();
                for (name, field) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    let value = field.into_value(path, lines);
                    map.insert(name, value);
                }
                Value::Object(map)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<NodeKind>::deserialize(d)?;
        Ok(Self { line: spanned.referenced.line(), kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for NodeKind {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = NodeKind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<NodeKind, E> {
        Ok(NodeKind::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<NodeKind, E> {
        Ok(NodeKind::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<NodeKind, E> {
        Ok(NodeKind::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<NodeKind, E> {
        Ok(NodeKind::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<NodeKind, E> {
        Ok(NodeKind::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<NodeKind, E> {
        Ok(NodeKind::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<NodeKind, E> {
        Ok(NodeKind::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<NodeKind, D::Error> {
        NodeKind::deserialize(d)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NodeKind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(NodeKind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<NodeKind, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(NodeKind::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        documents(text).unwrap().into_iter().map(|document| document.value).collect()
    }

    #[test]
    fn yaml_documents_know_the_line_of_every_field() {
        let text = "# a comment\nkind: Port\nspec:\n  mac: 02:00:00:00:00:01\n  addresses:\n    - 10.9.0.1\n    - fd09::1\n---\nkind: Tenant\n";
        let documents = documents(text).unwrap();
        assert_eq!(
            documents[0].value,
            json!({"kind": "Port", "spec": {"mac": "02:00:00:00:00:01", "addresses": ["10.9.0.1", "fd09::1"]}})
        );
        for (path, line) in [("kind", 2), ("spec.mac", 4), ("spec.addresses[1]", 7), ("spec.mac.none", 4), ("none", 2)]
        {
            assert_eq!(documents[0].line(path).unwrap_or(2), line, "{path}");
        }
        assert_eq!(documents[1].line("kind"), Some(9));
    }

    #[test]
    fn json_is_read_alone_in_a_row_and_in_a_list() {
        let wanted = vec![json!({"kind": "Tenant"}), json!({"kind": "Host"})];
        assert_eq!(values(r#"{"kind": "Tenant"} {"kind": "Host"}"#), wanted);
        assert_eq!(values("[{\"kind\": \"Tenant\"},\n\t{\"kind\": \"Host\"}]"), wanted);
        assert_eq!(values("- kind: Tenant\n- kind: Host\n"), wanted);
        assert_eq!(values("{kind: Tenant}\n---\n{kind: Host}\n"), wanted);
        assert_eq!(values(""), Vec::<Value>::new());
        assert_eq!(values("---\n# nothing\n---\n"), Vec::<Value>::new());
    }

    #[test]
    fn broken_syntax_is_told_with_its_line() {
        let told = |text: &str| documents(text).unwrap_err().to_string();
        assert!(told("kind: Port\n  spec: [\n").starts_with("line 2: this is not YAML that can be read: "));
        assert!(told("kind: Port\nkind: Host\n").starts_with("line 2: "), "{}", told("kind: Port\nkind: Host\n"));
        let deep = "[".repeat(100_000);
        assert!(told(&deep).contains("cannot") || told(&deep).contains("can be read"));
    }

    #[test]
    fn aliases_cannot_blow_a_text_up() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (one, next) in "abcdefgh".chars().zip("bcdefghi".chars()) {
            let list = vec![format!("*{one}"); 10].join(", ");
            text += &format!("{next}: &{next} [{list}]\n");
        }
        assert!(documents(&text).is_err());
    }
}
