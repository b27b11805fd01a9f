//! YAML text to values.
//!
//! A configuration needs little of YAML: one document, keys that are scalars, no tags. Anchors are taken, within bounds:
//! a few lines of aliases of aliases could otherwise stand for more values than memory holds.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::{DocumentError, Entry, Mapping, Node, Problem, Value, scalar};
use crate::config::Source;

/// The longest text that is read, in bytes.
pub(in crate::config) const LONGEST: usize = 1 << 20;
/// How deep lists and mappings may stand in each other.
const DEEPEST: usize = 64;
/// Values in a document, those that aliases stand for included.
const MOST_VALUES: usize = 10_000;

/// Reads the one document of a YAML text. `file` is what the text is called in errors.
///
/// # Errors
///
/// Text that is not YAML, a key that stands twice, what a configuration has no use for, and what is beyond the bounds.
pub fn parse_yaml(file: &str, text: &str) -> Result<Node, DocumentError> {
    let file: Arc<str> = file.into();
    let source = |line| Source::File { file: file.clone(), line };
    if text.len() > LONGEST {
        let problem = Problem::Unsupported("this is longer than 1 MiB, too long for a configuration");
        return Err(DocumentError { at: source(1), problem });
    }
    let mut reader =
        Reader { events: Parser::new_from_str(text), file: file.clone(), anchors: HashMap::new(), values: 0 };
    let mut document = None;
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(_) if document.is_some() => {
                return Err(reader.unsupported(span, "a second document begins here; one is expected"));
            }
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            Event::StreamEnd => break,
            event => document = Some(reader.node(event, span, 0)?),
        }
    }
    Ok(document.unwrap_or(Node { value: Value::Null, source: source(1) }))
}

/// Makes values of a parser's events.
struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    file: Arc<str>,
    /// Values that have an anchor, each with how many values it is made of.
    anchors: HashMap<usize, (Node, usize)>,
    /// Values so far.
    values: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, DocumentError> {
        self.events.next_event().transpose().map_err(|error| self.syntax(&error))
    }

    /// The next event within a list or mapping.
    fn inner(&mut self, begun: Span) -> Result<(Event<'a>, Span), DocumentError> {
        self.next()?.ok_or_else(|| self.unsupported(begun, "what begins here does not end"))
    }

    fn source(&self, span: Span) -> Source {
        Source::File { file: self.file.clone(), line: span.start.line() }
    }

    fn syntax(&self, error: &ScanError) -> DocumentError {
        let at = Source::File { file: self.file.clone(), line: error.marker().line() };
        let message = error.info().split_whitespace().collect::<Vec<_>>().join(" ");
        DocumentError { at, problem: Problem::Syntax { language: "YAML", message } }
    }

    fn unsupported(&self, span: Span, what: &'static str) -> DocumentError {
        DocumentError { at: self.source(span), problem: Problem::Unsupported(what) }
    }

    /// The value that an event begins, at this depth.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, DocumentError> {
        if depth > DEEPEST {
            return Err(self.unsupported(span, "lists and mappings stand in each other deeper than 64 times"));
        }
        let before = self.values;
        self.count(span, 1)?;
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let Some((node, values)) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.unsupported(span, "an alias must stand behind the end of what it means"));
                };
                self.count(span, values)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span)?;
                (scalar_value(text, style), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), span)?;
                (self.list(span, depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), span)?;
                (self.mapping(span, depth)?, anchor)
            }
            _ => return Err(self.unsupported(span, "a value is expected here")),
        };
        let node = Node { value, source: self.source(span) };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.values - before));
        }
        Ok(node)
    }

    fn list(&mut self, span: Span, depth: usize) -> Result<Value, DocumentError> {
        let mut items = Vec::new();
        loop {
            match self.inner(span)? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, span: Span, depth: usize) -> Result<Value, DocumentError> {
        let mut mapping = Mapping::default();
        loop {
            let (key, key_span) = match self.inner(span)? {
                (Event::MappingEnd, _) => return Ok(Value::Mapping(mapping)),
                (Event::Scalar(key, _, 0, None), span) => (key.into_owned(), span),
                (_, span) => return Err(self.unsupported(span, "a key must be a plain word")),
            };
            if key == "<<" {
                let what = "merge keys (\"<<\") are not taken; write the keys out, or use base_config";
                return Err(self.unsupported(key_span, what));
            }
            let (event, value_span) = self.inner(span)?;
            let node = self.node(event, value_span, depth + 1)?;
            mapping.insert(Entry { key, source: self.source(key_span), node })?;
        }
    }

    fn count(&mut self, span: Span, values: usize) -> Result<(), DocumentError> {
        self.values += values;
        if self.values > MOST_VALUES {
            return Err(
                self.unsupported(span, "this has more than 10000 values, too many for a configuration")
            );
        }
        Ok(())
    }

    fn refuse_tag(&self, tagged: bool, span: Span) -> Result<(), DocumentError> {
        if tagged { Err(self.unsupported(span, "tags (\"!\") are not taken")) } else { Ok(()) }
    }
}

fn scalar_value(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    if style == ScalarStyle::Plain { scalar::plain(&text) } else { Value::Text(text.into_owned()) }
}

#[cfg(test)]
mod tests;
