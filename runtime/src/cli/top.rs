//! `pegasus top`: what the containers are doing, refreshed.

use super::{Context, Outcome, OutputError, print_line, table};
use crate::observe::board::{Board, HEADINGS, Meter, Order};
use crate::observe::instances::{ObserveError, Selection, look};
use crate::observe::sample::Sample;
use crate::observe::screen;
use clap::Args;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// The first table comes this soon; it has rates, which take two samples.
const FIRST_AFTER: Duration = Duration::from_millis(250);
const INTERVAL_MIN_S: f64 = 0.1;
const INTERVAL_MAX_S: f64 = 3600.0;

/// Show what containers do: calls, connections, processor time
#[derive(Debug, Args)]
pub struct Top {
    /// Only containers of this group
    #[arg(long, conflicts_with = "containers")]
    group: Option<String>,
    /// Seconds between two tables
    #[arg(short, long, default_value_t = 1.0)]
    interval: f64,
    /// Print one table as text, with what happened during one interval
    #[arg(long)]
    once: bool,
    /// Print tables as text, one after the other
    #[arg(short, long)]
    batch: bool,
    /// Container identifiers, or the beginnings of them (default: all containers)
    containers: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TopError {
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error("the interval {0} is not between 0.1 and 3600 seconds")]
    Interval(f64),
    #[error("standard output is not a terminal; use --once or --batch")]
    NoTerminal,
    #[error("cannot use the terminal")]
    Terminal(#[from] io::Error),
    #[error(transparent)]
    Output(#[from] OutputError),
}

pub fn run(context: &Context, arguments: &Top) -> Outcome {
    top(context, arguments)?;
    Ok(0)
}

fn top(context: &Context, arguments: &Top) -> Result<(), TopError> {
    if !(INTERVAL_MIN_S..=INTERVAL_MAX_S).contains(&arguments.interval) {
        return Err(TopError::Interval(arguments.interval));
    }
    let interval = Duration::from_secs_f64(arguments.interval);
    let selection = Selection::new(arguments.group.as_deref(), &arguments.containers);
    let mut meter = Meter::default();
    let next = |meter: &mut Meter| -> Result<Board, TopError> {
        let found = look(&context.root, context.root_named, &selection)?;
        Ok(meter.board(Sample::of(&found)))
    };
    if arguments.once || arguments.batch {
        next(&mut meter)?;
        loop {
            std::thread::sleep(interval);
            print(next(&mut meter)?)?;
            if arguments.once {
                return Ok(());
            }
            print_line("")?;
        }
    }
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    next(&mut meter)?;
    std::thread::sleep(FIRST_AFTER);
    screen::show(interval, || match next(&mut meter) {
        Ok(board) => Ok(Some(board)),
        // All that was named has ended.
        Err(TopError::Observe(
            ObserveError::Find(_) | ObserveError::NotRunning(_) | ObserveError::NoGroup(_),
        )) => Ok(None),
        Err(error) => Err(error),
    })
}

fn print(mut board: Board) -> Result<(), OutputError> {
    board.sort(Order::Cpu);
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(board.rows.iter().map(|row| row.cells()));
    print_line(&board.summary)?;
    print_line(&table::align(&rows))
}
