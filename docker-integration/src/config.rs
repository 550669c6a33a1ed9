//! `daemon.json` as a value: parse, edit one runtime entry, render.
//!
//! Everything that is not the entry itself is carried through untouched, in its order and with the
//! file's own indentation. This module does no input or output.

use crate::InstallError;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

const RUNTIMES: &str = "runtimes";
const DEFAULT_RUNTIME: &str = "default-runtime";
const INDENT_DEFAULT: &str = "    ";

/// What an edit did to the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    Added,
    Updated,
    Removed,
}

/// A parsed `daemon.json`.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    root: Map<String, Value>,
    indent: String,
}

impl Config {
    /// `text` is `None` for a file that does not exist; an empty file counts as `{}`, as it does
    /// for the engine.
    pub fn parse(path: &Path, text: Option<&str>) -> Result<Self, InstallError> {
        let path = path.to_owned();
        let text = text.unwrap_or_default();
        if text.trim().is_empty() {
            return Ok(Self {
                path,
                root: Map::new(),
                indent: INDENT_DEFAULT.to_owned(),
            });
        }
        let value = serde_json::from_str(text).map_err(|fault| InstallError::Unparsable {
            path: path.clone(),
            line: fault.line(),
            column: fault.column(),
            reason: reason_of(&fault),
        })?;
        match value {
            Value::Object(root) => Ok(Self {
                path,
                root,
                indent: indent_of(text),
            }),
            _ => Err(InstallError::NotAnObject { path }),
        }
    }

    /// Adds or updates a runtime entry. An entry of that name that starts another program is
    /// somebody else's and is refused.
    pub fn set_runtime(
        &mut self,
        name: &str,
        program: &Path,
        args: Vec<String>,
    ) -> Result<Change, InstallError> {
        let path = self.path.clone();
        let runtimes = self.root.entry(RUNTIMES).or_insert_with(|| json!({}));
        let Value::Object(runtimes) = runtimes else {
            return Err(InstallError::RuntimesNotAnObject { path });
        };
        let mut entry = json!({ "path": program.to_string_lossy() });
        if !args.is_empty() {
            entry["runtimeArgs"] = args.into();
        }
        let change = match runtimes.get(name) {
            None => Change::Added,
            Some(present) if *present == entry => return Ok(Change::Nothing),
            Some(present) if starts_same_program(present, program) => Change::Updated,
            Some(present) => {
                let existing = present["path"]
                    .as_str()
                    .map_or_else(|| present.to_string(), str::to_owned);
                return Err(InstallError::NameTaken {
                    name: name.to_owned(),
                    path,
                    existing,
                });
            }
        };
        runtimes.insert(name.to_owned(), entry);
        Ok(change)
    }

    /// Removes a runtime entry, and `runtimes` itself when it held nothing else.
    pub fn remove_runtime(&mut self, name: &str) -> Result<Change, InstallError> {
        let path = self.path.clone();
        let runtimes = match self.root.get_mut(RUNTIMES) {
            None => return Ok(Change::Nothing),
            Some(Value::Object(runtimes)) => runtimes,
            Some(_) => return Err(InstallError::RuntimesNotAnObject { path }),
        };
        if !runtimes.contains_key(name) {
            return Ok(Change::Nothing);
        }
        runtimes.shift_remove(name);
        let is_empty = runtimes.is_empty();
        if self.root.get(DEFAULT_RUNTIME).and_then(Value::as_str) == Some(name) {
            return Err(InstallError::IsDefault {
                name: name.to_owned(),
                path,
            });
        }
        if is_empty {
            self.root.shift_remove(RUNTIMES);
        }
        Ok(Change::Removed)
    }

    /// The file's text, ending in a newline.
    pub fn render(&self) -> String {
        let formatter = serde_json::ser::PrettyFormatter::with_indent(self.indent.as_bytes());
        let mut bytes = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        self.root
            .serialize(&mut serializer)
            .expect("a JSON map always serialises");
        bytes.push(b'\n');
        String::from_utf8(bytes).expect("JSON is UTF-8")
    }
}

/// Two installations of one program differ in directory only.
fn starts_same_program(entry: &Value, program: &Path) -> bool {
    entry["path"]
        .as_str()
        .is_some_and(|present| Path::new(present).file_name() == program.file_name())
}

/// serde_json's message without the position, which the error carries in fields of its own.
fn reason_of(fault: &serde_json::Error) -> String {
    let text = fault.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The white space before the first indented line.
fn indent_of(text: &str) -> String {
    text.lines()
        .map(|line| &line[..line.len() - line.trim_start().len()])
        .find(|indent| !indent.is_empty())
        .unwrap_or(INDENT_DEFAULT)
        .to_owned()
}
