//! `pegasus metrics`: Prometheus' text about every container of this host, once or for each scrape.

use super::{Context, Outcome, OutputError, print_line};
use crate::error::chain;
use crate::observe::exposition::{CONTENT_TYPE, ExpositionError, text};
use crate::observe::http::{HttpError, Place, Server};
use crate::observe::instances::{ObserveError, Selection, look};
use crate::observe::ledger::Ledger;
use crate::observe::sample::Sample;
use clap::Args;
use std::sync::{Mutex, PoisonError};

/// Print, or serve, metrics of all containers in Prometheus' text format
#[derive(Debug, Args)]
pub struct Metrics {
    /// Serve GET /metrics at ADDRESS:PORT or unix:PATH, instead of printing once
    #[arg(long, value_name = "PLACE")]
    listen: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Exposition(#[from] ExpositionError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

pub fn run(context: &Context, arguments: &Metrics) -> Outcome {
    Ok(metrics(context, arguments)?)
}

fn metrics(context: &Context, arguments: &Metrics) -> Result<u8, MetricsError> {
    let Some(place) = &arguments.listen else {
        print_line(page(context, &mut Ledger::default())?.trim_end())?;
        return Ok(0);
    };
    let server = Server::at(&place.parse::<Place>()?)?;
    print_line(&format!("listening on {}", server.place))?;
    // Between scrapes, what has ended must not be lost from the sums.
    let ledger = Mutex::new(Ledger::default());
    server.serve(CONTENT_TYPE, &|| {
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        page(context, &mut ledger).map_err(|error| chain(&error))
    });
    Ok(0)
}

fn page(context: &Context, ledger: &mut Ledger) -> Result<String, MetricsError> {
    let found = look(&context.root, context.root_named, &Selection::All)?;
    let sample = Sample::of(&found);
    ledger.enter(&sample);
    Ok(text(&sample, ledger)?)
}
