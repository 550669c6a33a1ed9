//! What a person sees while a step runs: a spinner on a terminal, one line per step elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// A step that is under way. Dropping it without [`Step::done`] shows it as failed.
#[derive(Debug)]
pub struct Step {
    bar: ProgressBar,
    title: String,
    began: Instant,
    is_done: bool,
}

impl Step {
    pub fn begin(title: impl Into<String>) -> Self {
        let title = title.into();
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("  {spinner} {msg} ({elapsed})")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.set_message(title.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            bar,
            title,
            began: Instant::now(),
            is_done: false,
        }
    }

    /// Says what is going on within the step.
    pub fn note(&self, text: &str) {
        self.bar.set_message(format!("{}: {text}", self.title));
    }

    pub fn done(mut self, detail: &str) {
        self.is_done = true;
        self.finish("ok", detail);
    }

    fn finish(&self, mark: &str, detail: &str) {
        self.bar.finish_and_clear();
        let separator = if detail.is_empty() { "" } else { ": " };
        println!(
            "  {mark:<6} {}{separator}{detail} ({:.1} s)",
            self.title,
            self.began.elapsed().as_secs_f64()
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.is_done {
            self.finish("FAILED", "");
        }
    }
}
