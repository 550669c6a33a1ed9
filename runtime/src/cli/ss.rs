//! `pegasus ss`: the TCP connections that run over rings in the shared heap.

use super::{Context, JsonLayout, Outcome, OutputError, print_json, print_line, table};
use crate::instance::heap_view::HeapViewError;
use crate::instance::pools_view::Socket;
use crate::observe::board::short;
use crate::observe::instances::{Instance, ObserveError, Selection, look};
use crate::observe::links::{Link, Point, Traffic};
use clap::Args;
use pegasus_contract::socket::{EndState, SocketState};
use serde::Serialize;
use std::net::SocketAddr;

/// Show the TCP connections between containers that do not use the host's network
#[derive(Debug, Args)]
pub struct Ss {
    /// Only connections of this group
    #[arg(long, conflicts_with = "container_id")]
    group: Option<String>,
    /// Also sockets that look for their peer, and those that are left to the kernel
    #[arg(short, long)]
    all: bool,
    /// Print JSON
    #[arg(short, long)]
    json: bool,
    /// Container identifier, or the beginning of one (default: all containers)
    container_id: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SsError {
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Heap(#[from] HeapViewError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// What carries a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Carrier {
    Ring,
    /// Linux, until the peer is found.
    Searching,
    Kernel,
}

/// One line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    state: &'static str,
    carrier: Carrier,
    instance_pid: i32,
    group: Option<String>,
    /// Bytes that wait to be read here, and by the peer. Not known of the kernel's sockets.
    receive_queue: Option<u64>,
    send_queue: Option<u64>,
    bytes_received: u64,
    bytes_sent: u64,
    local: EndAnswer,
    peer: EndAnswer,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndAnswer {
    address: Option<SocketAddr>,
    container: Option<String>,
    /// What this end has said last; none for the kernel's.
    end: Option<&'static str>,
    /// Whether what it sends goes into its ring already.
    switched: bool,
    /// Whether the ring that it writes has a buffer.
    buffer: bool,
}

pub fn run(context: &Context, arguments: &Ss) -> Outcome {
    Ok(ss(context, arguments)?)
}

fn ss(context: &Context, arguments: &Ss) -> Result<u8, SsError> {
    let selection = Selection::new(
        arguments.group.as_deref(),
        arguments.container_id.as_slice(),
    );
    let found = look(&context.root, context.root_named, &selection)?;
    if found.unreadable > 0 {
        tracing::warn!(
            "{} containers could not be looked at; --debug says why",
            found.unreadable
        );
    }
    let mut entries = Vec::new();
    for instance in &found.instances {
        let traffic = Traffic::of(instance)?;
        entries.extend(links(instance, &traffic));
        if arguments.all {
            entries.extend(sockets(instance, &traffic));
        }
    }
    if arguments.json {
        print_json(&entries, JsonLayout::Indented)?;
    } else {
        print_text(&entries)?;
    }
    Ok(0)
}

/// The connections in which a selected container takes part, seen from it.
fn links<'a>(
    instance: &'a Instance,
    traffic: &'a Traffic,
) -> impl Iterator<Item = Entry> + use<'a> {
    traffic.links.iter().filter_map(|link| {
        if instance.is_selected(link.local.container) {
            Some(entry(instance, link))
        } else {
            let is_peers = instance.is_selected(link.remote.container);
            is_peers.then(|| entry(instance, &link.reversed()))
        }
    })
}

fn entry(instance: &Instance, link: &Link) -> Entry {
    let (sent, unsent) = (link.local.end.sent, link.local.end.unread);
    let (received, unread) = (link.remote.end.sent, link.remote.end.unread);
    Entry {
        state: link.state().name(),
        carrier: Carrier::Ring,
        instance_pid: instance.pid,
        group: instance.group.clone(),
        receive_queue: Some(unread),
        send_queue: Some(unsent),
        bytes_received: received.saturating_sub(unread),
        bytes_sent: sent,
        local: end_answer(instance, &link.local),
        peer: end_answer(instance, &link.remote),
    }
}

fn end_answer(instance: &Instance, point: &Point) -> EndAnswer {
    EndAnswer {
        address: point.address,
        container: name(instance, point.container),
        end: Some(match point.end.state {
            Some(EndState::Open) => "open",
            Some(EndState::Finished) => "finished",
            Some(EndState::Closed) => "closed",
            Some(EndState::Reset | EndState::ResetAfterEnd) => "reset",
            None => "unknown",
        }),
        switched: point.end.switched,
        buffer: point.end.has_buffer,
    }
}

/// Of the container with this record, unless it has gone.
fn name(instance: &Instance, index: u32) -> Option<String> {
    instance.member(index).map(|member| member.id().to_owned())
}

/// Sockets without a connection of the vkernel's.
fn sockets<'a>(
    instance: &'a Instance,
    traffic: &'a Traffic,
) -> impl Iterator<Item = Entry> + use<'a> {
    traffic.sockets.iter().filter_map(|socket| {
        let (carrier, state) = match socket.state {
            SocketState::Searching => (Carrier::Searching, "SEARCHING"),
            SocketState::Kernel => (Carrier::Kernel, "KERNEL"),
            _ => return None,
        };
        let is_selected = instance.is_selected(socket.container);
        is_selected.then(|| socket_entry(instance, socket, carrier, state))
    })
}

fn socket_entry(
    instance: &Instance,
    socket: &Socket,
    carrier: Carrier,
    state: &'static str,
) -> Entry {
    // A socket that was never connected has no port.
    let known = |address: SocketAddr| Some(address).filter(|address| address.port() != 0);
    Entry {
        state,
        carrier,
        instance_pid: instance.pid,
        group: instance.group.clone(),
        receive_queue: None,
        send_queue: None,
        bytes_received: socket.kernel_received,
        bytes_sent: socket.kernel_sent,
        local: EndAnswer {
            address: known(socket.local),
            container: name(instance, socket.container),
            ..EndAnswer::default()
        },
        peer: EndAnswer {
            address: known(socket.remote),
            ..EndAnswer::default()
        },
    }
}

fn print_text(entries: &[Entry]) -> Result<(), OutputError> {
    let mut rows = vec![
        [
            "STATE",
            "RECV-Q",
            "SEND-Q",
            "LOCAL",
            "PEER",
            "RECEIVED",
            "SENT",
            "BUFFER",
            "CONTAINER",
            "PEER CONTAINER",
        ]
        .map(str::to_owned),
    ];
    rows.extend(entries.iter().map(row));
    print_line(&table::align(&rows))
}

fn row(entry: &Entry) -> [String; 10] {
    let or_dash =
        |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let address = |end: &EndAnswer| {
        end.address
            .map_or_else(|| "*:*".to_owned(), |address| address.to_string())
    };
    let container = |end: &EndAnswer| end.container.as_deref().map_or("-", short).to_owned();
    let buffer = match (entry.local.buffer, entry.peer.buffer) {
        (false, false) => "-",
        (true, false) => "send",
        (false, true) => "recv",
        (true, true) => "both",
    };
    [
        entry.state.to_owned(),
        or_dash(entry.receive_queue),
        or_dash(entry.send_queue),
        address(&entry.local),
        address(&entry.peer),
        entry.bytes_received.to_string(),
        entry.bytes_sent.to_string(),
        buffer.to_owned(),
        container(&entry.local),
        container(&entry.peer),
    ]
}
