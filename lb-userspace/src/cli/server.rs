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
    /// Addresses of API servers, as https://HOST:PORT or HOST:PORT, instead of the configured one; tried in this order.
    /// May be repeated. Needed in a pod where nobody else serves the address of the Service `kubernetes`.
    /// [env: LB_API_SERVERS]
    #[arg(long = "api-server", value_name = "URL,...", value_delimiter = ',')]
    api_servers: Vec<String>,
    /// Name or address that their certificates are for, where it is not the host they are reached at.
    /// [env: LB_API_SERVER_NAME]
    #[arg(long, value_name = "NAME")]
    api_server_name: Option<String>,
}

impl From<ServerArgs> for KubeOptions {
    fn from(args: ServerArgs) -> Self {
        // Their environment is read where kube's is: a variable is no flag that forbids others.
        let ServerArgs {
            kubeconfig,
            context,
            api_servers,
            api_server_name,
        } = args;
        Self {
            kubeconfig,
            context,
            servers: api_servers,
            server_name: api_server_name,
            memory: None,
        }
    }
}
