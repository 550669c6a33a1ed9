//! Receives the `tracing` events of this program and of the container library.

use super::library_errors;
use super::line::Format;
use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::Write as _;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Events of these targets are this program's own; all others are the libraries'.
const OWN_TARGET: &str = "pegasus";

struct LogSubscriber {
    /// `None` is stderr.
    file: Option<File>,
    format: Format,
    debug: bool,
}

pub fn install(file: Option<File>, format: Format, debug: bool) {
    let subscriber = LogSubscriber {
        file,
        format,
        debug,
    };
    // Fails only when one is installed already, which then serves as well.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn is_own(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(OWN_TARGET)
}

impl LogSubscriber {
    /// On a terminal, information would mix with the container's output: only a log file gets it.
    fn is_printed(&self, metadata: &Metadata<'_>) -> bool {
        let own_level = if self.file.is_some() {
            Level::INFO
        } else {
            Level::WARN
        };
        match (is_own(metadata), self.debug) {
            (_, true) => *metadata.level() <= Level::DEBUG,
            (true, false) => *metadata.level() <= own_level,
            (false, false) => false,
        }
    }
}

impl Subscriber for LogSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && (self.is_printed(metadata) || *metadata.level() == Level::ERROR)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut content = Content::default();
        event.record(&mut content);
        if !is_own(metadata) && *metadata.level() == Level::ERROR {
            library_errors::remember(&content.one_text());
        }
        if !self.is_printed(metadata) {
            return;
        }
        let line = self.format.line(
            level_name(metadata.level()),
            &content.message,
            &content.fields,
        );
        // A full disk must not stop a container; the final error also goes to stderr.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// logrus' names of the levels.
fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    }
}

#[derive(Default)]
struct Content {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Content {
    /// Message and fields as one text.
    fn one_text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{}{name}: {value}",
                if text.is_empty() { "" } else { ", " }
            );
        }
        text
    }
}

impl Visit for Content {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => self.fields.push((name, value.to_owned())),
        }
    }
}
