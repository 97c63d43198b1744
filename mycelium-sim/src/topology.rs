//! Shapes of networks: how many nodes, and which links between them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::choices::Choices;
use crate::link::LinkSpec;

/// Nodes `0..nodes` and the links between them. The first end of a link is the one that dials.
#[derive(Clone, Debug)]
pub struct Topology {
    /// How many nodes.
    pub nodes: usize,
    /// Links: dialling end, accepting end, properties.
    pub links: Vec<(usize, usize, LinkSpec)>,
}

impl Topology {
    /// `nodes` nodes in a row.
    pub fn line(nodes: usize, spec: LinkSpec) -> Self {
        let links = (1..nodes).map(|n| (n - 1, n, spec)).collect();
        Self { nodes, links }
    }

    /// `nodes` nodes in a circle.
    pub fn ring(nodes: usize, spec: LinkSpec) -> Self {
        let mut ring = Self::line(nodes, spec);
        if nodes > 2 {
            ring.links.push((nodes - 1, 0, spec));
        }
        ring
    }

    /// Node 0 in the middle of the others.
    pub fn star(nodes: usize, spec: LinkSpec) -> Self {
        let links = (1..nodes).map(|n| (n, 0, spec)).collect();
        Self { nodes, links }
    }

    /// A rectangle, `width` × `height`.
    pub fn grid(width: usize, height: usize, spec: LinkSpec) -> Self {
        let mut links = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let at = y * width + x;
                if x + 1 < width {
                    links.push((at, at + 1, spec));
                }
                if y + 1 < height {
                    links.push((at, at + width, spec));
                }
            }
        }
        Self {
            nodes: width * height,
            links,
        }
    }

    /// 0 = A, 1 and 2 = the relays, 3 = B. `upper` are the links over relay 1, `lower` those over relay 2.
    pub fn diamond(upper: LinkSpec, lower: LinkSpec) -> Self {
        Self {
            nodes: 4,
            links: vec![(0, 1, upper), (1, 3, upper), (0, 2, lower), (2, 3, lower)],
        }
    }

    /// A connected graph: a random tree, then random links up to `nodes * degree / 2` of them. Latencies are drawn
    /// from `latency`.
    pub fn random(
        nodes: usize,
        degree: usize,
        spec: LinkSpec,
        latency: (u64, u64),
        choices: &mut Choices,
    ) -> Self {
        let mut pairs = BTreeSet::new();
        for node in 1..nodes {
            pairs.insert((choices.below(node), node));
        }
        let wanted = (nodes * degree / 2).min(nodes * nodes.saturating_sub(1) / 2);
        // Bounded: an exhausted byte string would pick the same pair for ever.
        for _ in 0..wanted * 20 {
            if pairs.len() >= wanted {
                break;
            }
            let (a, b) = (choices.below(nodes), choices.below(nodes));
            if a != b {
                pairs.insert((a.min(b), a.max(b)));
            }
        }
        let links = pairs
            .into_iter()
            .map(|(a, b)| {
                let millis = choices.within(latency.0..latency.1 + 1);
                let (a, b) = if choices.below(2) == 0 {
                    (a, b)
                } else {
                    (b, a)
                };
                (
                    a,
                    b,
                    LinkSpec {
                        latency: Duration::from_millis(millis),
                        ..spec
                    },
                )
            })
            .collect();
        Self { nodes, links }
    }

    /// As [`Topology::random`], but every node has at most `degree` links and (with an even `nodes * degree`) nearly
    /// all have exactly that many: links of a random matching that would be doubled are left out, then parts are
    /// joined.
    pub fn random_regular(
        nodes: usize,
        degree: usize,
        spec: LinkSpec,
        latency: (u64, u64),
        choices: &mut Choices,
    ) -> Self {
        let mut stubs: Vec<usize> = (0..nodes)
            .flat_map(|n| std::iter::repeat_n(n, degree))
            .collect();
        choices.shuffle(&mut stubs);
        let mut pairs: BTreeSet<(usize, usize)> = stubs
            .chunks_exact(2)
            .filter(|pair| pair[0] != pair[1])
            .map(|pair| (pair[0].min(pair[1]), pair[0].max(pair[1])))
            .collect();
        let parts = parts(nodes, &pairs);
        for two in parts.windows(2) {
            pairs.insert((two[0].min(two[1]), two[0].max(two[1])));
        }
        let links = pairs
            .into_iter()
            .map(|(a, b)| {
                let millis = choices.within(latency.0..latency.1 + 1);
                (
                    a,
                    b,
                    LinkSpec {
                        latency: Duration::from_millis(millis),
                        ..spec
                    },
                )
            })
            .collect();
        Self { nodes, links }
    }
}

/// One node of every connected part.
fn parts(nodes: usize, pairs: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    let mut root: Vec<usize> = (0..nodes).collect();
    fn find(root: &mut [usize], mut node: usize) -> usize {
        while root[node] != node {
            root[node] = root[root[node]];
            node = root[node];
        }
        node
    }
    for &(a, b) in pairs {
        let (a, b) = (find(&mut root, a), find(&mut root, b));
        root[a] = b;
    }
    (0..nodes).filter(|&n| find(&mut root, n) == n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_graphs_are_connected() {
        for seed in 0..20 {
            let mut choices = Choices::from_seed(seed);
            for graph in [
                Topology::random(50, 3, LinkSpec::tcp(1), (1, 9), &mut choices),
                Topology::random_regular(50, 3, LinkSpec::tcp(1), (1, 9), &mut choices),
            ] {
                let pairs = graph.links.iter().map(|&(a, b, _)| (a, b)).collect();
                assert_eq!(parts(graph.nodes, &pairs).len(), 1);
            }
        }
    }
}
