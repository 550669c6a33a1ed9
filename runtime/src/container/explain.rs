//! Puts the container library's errors into words a user can act on.

use crate::error::chain;
use crate::executor::lookup::errno_text;
use crate::logging::library_errors;
use libcontainer::error::LibcontainerError;
use nix::errno::Errno;

/// What the library wraps around the text that matters.
const WRAPPINGS: [(&str, &str); 5] = [
    ("failed to create container: ", ""),
    ("error in executing process : ", ""),
    ("exec process failed with error ", ""),
    ("intermediate process error ", ""),
    // Its main process names the message that it got instead of the one it waited for.
    (
        "received unexpected message: ExecFailed(\"",
        "\"), expected: HookRequest",
    ),
];

/// One sentence: the library's message without its wrappings, then the first thing that went wrong,
/// then the kernel's reason.
pub fn explain(error: &LibcontainerError) -> String {
    join(&chain(error), &library_errors::recall())
}

fn join(message: &str, events: &[String]) -> String {
    let mut text = message.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    while let Some(inner) = WRAPPINGS
        .iter()
        .find_map(|(before, after)| text.strip_prefix(before)?.strip_suffix(after))
    {
        text = inner;
    }
    let mut text = text.replace("\\\"", "\"");
    if let Some(first) = events.first() {
        if first.starts_with(&text) {
            // The event is the message with its cause.
            text.clone_from(first);
        } else if !first.contains(&text) && !text.contains(first) {
            text = format!("{text}: {first}");
        }
    }
    let text = name_errors(&text);
    match events
        .iter()
        .find_map(|event| first_errno(event))
        .map(errno_text)
    {
        Some(reason) if !text.to_lowercase().contains(&reason) => format!("{text}: {reason}"),
        _ => text,
    }
}

/// Replaces the names of error numbers (`ENOENT`) by their texts, which docker looks for.
fn name_errors(text: &str) -> String {
    let mut named = String::with_capacity(text.len());
    for word in words(text) {
        match errno_named(word) {
            Some(errno) => named.push_str(&errno_text(errno)),
            None => named.push_str(word),
        }
    }
    named
}

fn first_errno(text: &str) -> Option<Errno> {
    words(text).find_map(errno_named)
}

/// Splits `text` into runs of word characters and runs of others.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = rest
            .find(|c| is_word(c) != is_word(first))
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

fn errno_named(word: &str) -> Option<Errno> {
    const ERRNO_MAX: i32 = 133;
    if !word.starts_with('E') {
        return None;
    }
    (1..=ERRNO_MAX)
        .map(Errno::from_raw)
        .find(|errno| format!("{errno:?}") == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(message: &str, events: &[&str]) -> String {
        let events: Vec<String> = events.iter().map(|event| (*event).to_owned()).collect();
        join(message, &events)
    }

    #[test]
    fn wrappings_are_removed() {
        let message = "failed to create container: error in executing process : exec: \"x\": \
                       executable file not found in $PATH";
        let text = "exec: \"x\": executable file not found in $PATH";
        assert_eq!(joined(message, &[]), text);
        let first = format!("failed to initialize container process: {text}");
        assert_eq!(joined(message, &[&first]), text);
        let unexpected = "received unexpected message: ExecFailed(\"exec: \\\"x\\\": executable \
                          file not found in $PATH\"), expected: HookRequest";
        assert_eq!(joined(unexpected, &[&first]), text);
    }

    #[test]
    fn cause_and_reason_are_added_once() {
        assert_eq!(
            joined(
                "failed to prepare rootfs",
                &["failed to mount a: syscall", "Nix(ENOTDIR)"]
            ),
            "failed to prepare rootfs: failed to mount a: syscall: not a directory"
        );
        assert_eq!(
            joined("no such process", &["no such process"]),
            "no such process"
        );
        assert_eq!(
            joined("it failed\0\0", &["it failed, err: EACCES"]),
            "it failed, err: permission denied"
        );
    }

    #[test]
    fn only_whole_names_of_errors_are_replaced() {
        assert_eq!(
            name_errors("Nix(EACCES) in SENOENT ENOENTX E2BIG"),
            "Nix(permission denied) in SENOENT ENOENTX argument list too long"
        );
        assert_eq!(name_errors("Error É E"), "Error É E");
    }
}
