//! Running the table: choosing cases, a few at a time, one line each, and the count at the end.

use super::case::{Case, Company, Scope, Skip, SkipCause};
use super::context::{Context, Shared};
use super::site::Site;
use anyhow::{Result, anyhow};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// How many cases run at the same time.
const WORKERS: usize = 2;
/// So many failures may come of a busy machine; more are a defect, and no second try is made.
const SECOND_TRIES_MAX: usize = 6;

/// How to run the suite.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only cases whose name (with its placement) contains one of these.
    pub filters: Vec<String>,
    pub skips: SkipPolicy,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SkipPolicy {
    #[default]
    Allow,
    /// A skip that the set-up could have avoided is a failure.
    Strict,
}

/// The counts of a run.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    pub failures: Vec<String>,
}

/// A case in one placement.
#[derive(Clone)]
struct Job {
    case: Case,
    title: String,
    runtime: String,
}

enum Verdict {
    Passed,
    Failed(anyhow::Error),
    Skipped(String),
}

/// Runs every chosen case and prints one line for each.
pub fn run(site: &Site, cases: Vec<Case>, options: &Options) -> Summary {
    let shared = Shared::new(site.clone());
    let jobs = cases.into_iter().flat_map(|case| placements(site, case));
    let chosen: Vec<Job> = jobs
        .filter(|job| is_chosen(&job.title, &options.filters))
        .collect();
    println!("\nrunning {} end-to-end tests", chosen.len());
    let all = chosen.clone();
    let (others, alone): (Vec<_>, Vec<_>) = chosen
        .into_iter()
        .partition(|job| job.case.company == Company::Others);
    let summary = Mutex::new(Summary::default());
    work(&shared, others, WORKERS, options, &summary);
    work(&shared, alone, 1, options, &summary);
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    if (1..=SECOND_TRIES_MAX).contains(&summary.failures.len()) {
        try_again(&shared, &all, options, &mut summary);
    }
    if !summary.failures.is_empty() {
        println!("\nfailed:\n    {}", summary.failures.join("\n    "));
    }
    summary
}

/// Runs the few cases that failed once more, alone: a busy machine is told from a defect, and both are shown.
fn try_again(shared: &Shared, jobs: &[Job], options: &Options, summary: &mut Summary) {
    let failed = std::mem::take(&mut summary.failures);
    println!("\nonce more, alone:");
    for job in jobs.iter().filter(|job| failed.contains(&job.title)) {
        match judge(shared, job, options) {
            Verdict::Passed => {
                summary.failed -= 1;
                summary.passed += 1;
                println!(
                    "test {} ... ok, UNSTEADY: it failed among others",
                    job.title
                );
            }
            Verdict::Skipped(reason) => {
                summary.failures.push(job.title.clone());
                println!("test {} ... skipped after it failed ({reason})", job.title);
            }
            Verdict::Failed(fault) => {
                summary.failures.push(job.title.clone());
                println!("test {} ... FAILED again: {fault:#}", job.title);
            }
        }
    }
}

fn placements(site: &Site, case: Case) -> Vec<Job> {
    let own = || (case.name.clone(), site.runtimes.own.clone());
    let jobs = match (case.scope, &site.runtimes.shared) {
        (Scope::Own | Scope::Group, _) | (Scope::Each, None) => vec![own()],
        (Scope::Each, Some(shared)) => vec![
            (format!("{} [own]", case.name), site.runtimes.own.clone()),
            (format!("{} [shared]", case.name), shared.runtime.clone()),
        ],
    };
    jobs.into_iter()
        .map(|(title, runtime)| Job {
            case: case.clone(),
            title,
            runtime,
        })
        .collect()
}

fn is_chosen(title: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| title.contains(filter.as_str()))
}

fn work(
    shared: &Shared,
    jobs: Vec<Job>,
    workers: usize,
    options: &Options,
    summary: &Mutex<Summary>,
) {
    let queue = Mutex::new(VecDeque::from(jobs));
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let began = Instant::now();
                    let verdict = judge(shared, &job, options);
                    record(summary, &job.title, verdict, began.elapsed().as_secs_f64());
                }
            });
        }
    });
}

fn judge(shared: &Shared, job: &Job, options: &Options) -> Verdict {
    let slug: String = job
        .title
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let slug = format!("pt-{}", slug.trim_end_matches('-'));
    let context = Context::new(shared, slug, job.runtime.clone(), job.case.limit);
    let caught = catch_unwind(AssertUnwindSafe(|| (job.case.body)(&context)));
    let result: Result<()> = caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(anyhow!("panicked: {}", text.unwrap_or_default()))
    });
    let cleaned = context.clean_up();
    match result {
        Ok(()) => cleaned.map_or_else(Verdict::Failed, |()| Verdict::Passed),
        Err(fault) => match fault.downcast_ref::<Skip>() {
            Some(skip) if options.skips == SkipPolicy::Strict && skip.cause == SkipCause::Setup => {
                Verdict::Failed(fault.context("a skip that the set-up should have avoided"))
            }
            Some(skip) => Verdict::Skipped(skip.reason.clone()),
            None => Verdict::Failed(fault),
        },
    }
}

fn record(summary: &Mutex<Summary>, title: &str, verdict: Verdict, elapsed_s: f64) {
    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
    match verdict {
        Verdict::Passed => {
            summary.passed += 1;
            println!("test {title} ... ok ({elapsed_s:.1} s)");
        }
        Verdict::Skipped(reason) => {
            summary.skipped += 1;
            println!("test {title} ... SKIPPED ({reason})");
        }
        Verdict::Failed(fault) => {
            summary.failed += 1;
            summary.failures.push(title.to_owned());
            let text = format!("{fault:#}");
            println!(
                "test {title} ... FAILED ({elapsed_s:.1} s)\n    {}",
                text.trim().replace('\n', "\n    ")
            );
        }
    }
}
