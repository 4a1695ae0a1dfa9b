//! One try of a request to switch protocols, in the HTTP that the upstream is said to speak.

use std::{rc::Rc, time::Duration};

use http::Response;

use super::{Call, Cluster, judge::within};
use crate::{
    http::{
        Body, RequestBody, client,
        upgrade::{
            Wish,
            ask::{self, Over},
        },
    },
    outbound::{Protocol, endpoint::Endpoint},
};

impl Cluster {
    /// The answer's head, within one try's time; what comes after a switch has all the time it wants.
    pub(super) async fn switch(
        self: &Rc<Self>,
        endpoint: &Rc<Endpoint>,
        wish: &Wish,
        call: &Call<'_>,
    ) -> Result<Response<Body>, client::Failed> {
        let over = match self.upstream.settings.protocol {
            Protocol::Auto | Protocol::Tcp => Over::of_caller(call.http2),
            Protocol::Http1 => Over::Http1,
            Protocol::Http2 | Protocol::Grpc => Over::Http2,
        };
        let connect = async |http2| self.connect(endpoint, http2, call.deadline).await;
        let once = async {
            match ask::connection(wish, over, &endpoint.peer, connect).await {
                Ok(lease) => ask::send(lease, call.outgoing, wish, &endpoint.peer).await,
                Err(fault) => Err(client::Failed {
                    fault,
                    body: Some(RequestBody::Empty),
                    stale: false,
                }),
            }
        };
        within(call.backend_request.unwrap_or(Duration::MAX), once).await
    }
}
