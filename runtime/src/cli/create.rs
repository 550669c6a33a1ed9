//! `pegasus create`: set a container up; its process waits for `start`.

use super::{Context, Outcome};
use crate::container::create::{self, CreateRequest, Keyring, Pivot};
use crate::container::hierarchies::Afterwards;

pub fn run(context: &Context, arguments: &liboci_cli::Create) -> Outcome {
    let request = CreateRequest {
        id: &arguments.container_id,
        bundle: &arguments.bundle,
        console_socket: arguments.console_socket.clone(),
        pid_file: arguments.pid_file.clone(),
        preserve_fds: arguments.preserve_fds,
        pivot: if arguments.no_pivot {
            Pivot::MoveMount
        } else {
            Pivot::PivotRoot
        },
        keyring: if arguments.no_new_keyring {
            Keyring::Inherited
        } else {
            Keyring::New
        },
        cgroups: context.cgroups,
        afterwards: Afterwards::Exit,
        configuration: context.configuration()?,
    };
    create::create(&context.root, &context.policy, &request)?;
    Ok(0)
}
