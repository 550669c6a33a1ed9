//! One line of the log, as logrus (runc's logger) would print it.

use crate::clock;
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl std::str::FromStr for Format {
    type Err = super::LogError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "" | "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(super::LogError::Format(other.to_owned())),
        }
    }
}

impl Format {
    /// A whole line, newline included. It is written with one `write(2)`, so that lines of several
    /// processes do not mix.
    pub fn line(self, level: &str, message: &str, fields: &[(&str, String)]) -> String {
        let time = clock::now_rfc3339();
        match self {
            Format::Json => {
                let mut object = serde_json::Map::new();
                for (name, value) in fields {
                    object.insert((*name).to_owned(), value.as_str().into());
                }
                object.insert("level".to_owned(), level.into());
                object.insert("msg".to_owned(), message.into());
                object.insert("time".to_owned(), time.into());
                format!("{}\n", serde_json::Value::Object(object))
            }
            Format::Text => {
                let mut line = format!("time=\"{time}\" level={level} msg={message:?}");
                for (name, value) in fields {
                    // Writing to a String cannot fail.
                    let _ = write!(line, " {name}={value:?}");
                }
                line.push('\n');
                line
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_keys_that_containerd_reads() {
        let line = Format::Json.line("error", "no \"such\" file\n", &[("id", "c1".to_owned())]);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "no \"such\" file\n");
        assert_eq!(value["id"], "c1");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn text_is_one_line() {
        let line = Format::Text.line("warning", "a\nb", &[]);
        assert!(line.ends_with("level=warning msg=\"a\\nb\"\n"));
    }

    #[test]
    fn unknown_formats_are_refused() {
        assert!("yaml".parse::<Format>().is_err());
        assert_eq!("".parse::<Format>().unwrap(), Format::Text);
    }
}
