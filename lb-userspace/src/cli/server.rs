//! How the API server is found: flags of the agent, and of those who look objects up as it does.

use std::path::PathBuf;

use clap::Args;

use crate::source::kubernetes::KubeOptions;

/// Which API server.
#[derive(Args, Clone, Debug)]
pub(super) struct ServerArgs {
    /// Kubeconfig file; otherwise $KUBECONFIG, ~/.kube/config, or the ServiceAccount of the pod.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig file; otherwise its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The API server, as https://HOST:PORT. Needed in a pod when nobody else serves the address of the
    /// Service `kubernetes`.
    #[arg(long, value_name = "URL")]
    api_server: Option<String>,
}

impl From<ServerArgs> for KubeOptions {
    fn from(args: ServerArgs) -> Self {
        let ServerArgs {
            kubeconfig,
            context,
            api_server,
        } = args;
        Self {
            kubeconfig,
            context,
            server: api_server,
        }
    }
}
