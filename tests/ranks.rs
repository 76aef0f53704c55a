//! Several ranks against one that accumulates as many batches: the same bits, whatever is trained, on the CPU and on kernels.

#[path = "common/random_batch.rs"]
mod random_batch;
#[path = "common/split_runs.rs"]
mod split_runs;
#[path = "common/thread_ranks.rs"]
mod thread_ranks;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use random_batch::random_batch;
use residuum::batch::Batch;
use residuum::device::{Device, DeviceKind};
use residuum::dist::{Collective, Group, Rank};
use residuum::exec::{Session, Start};
use residuum::fuse::Fusion;
use residuum::graph::{Graph, Mode, Role, ValueId};
use residuum::models::{Inputs, Network};
use residuum::ops::{
    AdamConfig, BnConfig, Conv2dConfig, PoolWindow, add, batch_norm, conv2d, dropout, global_avg_pool,
    linear, max_pool, relu,
};
use residuum::plan::Program;
use residuum::run::checkpoint::NamedTensor;
use residuum::step::{AllReduce, Optimiser, StepConfig, SumOrder, Traffic, Training, program};
use residuum::tensor::DType;
use split_runs::{BATCHES, CLASSES, LR, Left, config, leave, split, split_of, state, train};
use thread_ranks::{ThreadRank, on_ranks, thread_ranks};

/// Fails unless every rank of every split leaves what one rank leaves.
fn check_splits(
    config: &StepConfig,
    updates: usize,
    splits: &[usize],
    open: impl Fn(StepConfig) -> Training + Sync,
) {
    let expected = leave(&mut open(split(config, 1)), updates, 0);
    assert_eq!(expected.losses.len(), updates * BATCHES);
    let splits: Vec<StepConfig> = splits.iter().map(|&num_ranks| split(config, num_ranks)).collect();
    check_against(&expected, &splits, updates, open);
}

/// Fails unless every rank of every one of `splits` leaves what is expected.
fn check_against(
    expected: &Left,
    splits: &[StepConfig],
    updates: usize,
    open: impl Fn(StepConfig) -> Training + Sync,
) {
    assert!(expected.losses.iter().all(|loss| f32::from_bits(*loss).is_finite()));
    for config in splits {
        let left = on_ranks(config.num_ranks, |index, rank| {
            let mut training = open(config.clone());
            training.join(Box::new(rank)).unwrap();
            leave(&mut training, updates, index)
        });
        for (rank, left) in left.iter().enumerate() {
            let what = format!("rank {rank} of {}, {} a machine", config.num_ranks, config.ranks_per_node);
            for ((name, got), (_, expected)) in left.state.iter().zip(&expected.state) {
                assert!(got == expected, "`{name}` of {what}");
            }
            assert!(left == expected, "losses or evaluation of {what}");
        }
    }
}

fn on_cpu(config: StepConfig) -> Training {
    Training::new(config, Device::Cpu).unwrap()
}

#[test]
fn ranks_have_the_bits_of_one_rank_that_accumulates() {
    let config = StepConfig {
        clip_grad: Some(0.5),
        ema_decay: Some(0.9),
        bucket_bytes: 1 << 20,
        ..config("resnet18")
    };
    check_splits(&config, 2, &[2, 3, 6], on_cpu);
}

#[test]
fn ranks_have_the_bits_of_one_rank_with_adam_and_two_rates_in_bf16() {
    let adam = AdamConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decoupled: true };
    let config = StepConfig {
        optimiser: Optimiser::Adam(adam),
        norm_decay: false,
        float: DType::Bf16,
        ..config("resnet18")
    };
    check_splits(&config, 2, &[2], on_cpu);
}

#[test]
fn gradients_that_are_sent_as_bf16_are_rounded_by_one_rank_alike() {
    let exact = StepConfig { clip_grad: Some(0.5), ..config("resnet18") };
    let rounded = StepConfig { grad_wire: DType::Bf16, ..exact.clone() };
    check_splits(&rounded, 2, &[2, 3, 6], on_cpu);

    // A gradient is off by a half of 2^-8 of itself at most, and so the weights differ, but by less than an update.
    let after_one = |config: &StepConfig| leave(&mut on_cpu(split(config, 1)), 1, 0).state;
    let largest_difference = |a: &[(String, Vec<u32>)], b: &[(String, Vec<u32>)]| {
        let pairs = a.iter().zip(b).flat_map(|((_, a), (_, b))| a.iter().zip(b));
        pairs.map(|(&a, &b)| (f32::from_bits(a) - f32::from_bits(b)).abs()).fold(0.0, f32::max)
    };
    let begun = state(&on_cpu(split(&exact, 1)));
    let (exact, rounded) = (after_one(&exact), after_one(&rounded));
    let (update, error) = (largest_difference(&begun, &exact), largest_difference(&exact, &rounded));
    assert!(error > 0.0 && error < update / 128.0, "{error} of {update}");
}

/// Splits of `config` with 8 batches an update in the order of a tree: one rank, and several on machines of so many each.
fn tree_splits(config: &StepConfig, ranks_and_nodes: &[(usize, usize)]) -> [Vec<StepConfig>; 2] {
    let of_split = |&(num_ranks, ranks_per_node): &(usize, usize)| StepConfig {
        sum_order: SumOrder::Tree,
        ranks_per_node,
        ..split_of(config, 8, num_ranks)
    };
    [vec![of_split(&(1, 1))], ranks_and_nodes.iter().map(of_split).collect()]
}

#[test]
fn the_order_of_a_tree_has_the_same_bits_for_every_number_of_ranks_and_machines() {
    let config = StepConfig { clip_grad: Some(0.5), bucket_bytes: 1 << 20, ..config("resnet9") };
    let [alone, splits] = tree_splits(&config, &[(2, 1), (4, 4), (4, 2), (8, 2), (8, 4)]);
    let expected = leave(&mut on_cpu(alone[0].clone()), 2, 0);
    check_against(&expected, &splits, 2, on_cpu);
    let chain = StepConfig { sum_order: SumOrder::Chain, ..alone[0].clone() };
    let is_of_chain = leave(&mut on_cpu(chain), 2, 0).state == expected.state;
    assert!(!is_of_chain, "it is an order of its own");

    let [alone, splits] = tree_splits(&StepConfig { grad_wire: DType::Bf16, ..config }, &[(4, 2), (8, 8)]);
    check_against(&leave(&mut on_cpu(alone[0].clone()), 1, 0), &splits, 1, on_cpu);
}

#[test]
fn a_tree_wants_a_power_of_two() {
    let config = StepConfig { sum_order: SumOrder::Tree, ..split(&config("resnet9"), 2) };
    let message = program(&config, DeviceKind::Cpu).unwrap_err().to_string();
    assert!(message.contains("and 6 are no power of two: take 4 or 8"), "{message}");
}

/// A net whose layers draw in training.
struct Dropping;

impl Network for Dropping {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> residuum::Result<ValueId> {
        let x = conv2d(graph, "conv", inputs.images, Conv2dConfig::square(8, 3, 2))?;
        let x = batch_norm(graph, "bn", x, BnConfig { bn_momentum: 0.3, ..BnConfig::new(mode) })?;
        let x = relu(graph, "relu", x)?;
        let x = conv2d(graph, "conv2", x, Conv2dConfig::square(12, 3, 2))?;
        let x = batch_norm(graph, "bn2", x, BnConfig::new(mode))?;
        let x = dropout(graph, "dropout", x, 0.5, mode)?;
        let x = global_avg_pool(graph, "features", x)?;
        linear(graph, "fc", x, CLASSES)
    }
}

#[test]
fn ranks_draw_what_one_rank_draws_and_blend_each_statistic_by_its_own_share() {
    check_splits(&StepConfig { seed: 3, ..StepConfig::new(Dropping, 3, 32) }, 2, &[2, 3, 6], on_cpu);
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let config = StepConfig { ema_decay: Some(0.9), ..config("resnet9") };
    let mut whole = on_cpu(split(&config, 1));
    train(&mut whole, 0, 0..4);
    let mut left = Vec::new();
    for (update, num_ranks) in [3, 1, 2, 6].into_iter().enumerate() {
        let before: Vec<_> = left;
        let states = on_ranks(num_ranks, |index, rank| {
            let mut training =
                on_cpu(StepConfig { seed: config.seed + update as u64, ..split(&config, num_ranks) });
            if num_ranks > 1 {
                training.join(Box::new(rank)).unwrap();
            }
            if update == 0 {
                // All ranks begin with the same weights.
                training.restore(&on_cpu(split(&config, 1)).state().unwrap(), 0, "memory".as_ref()).unwrap();
            } else {
                training.restore(&before, update as u64, "memory".as_ref()).unwrap();
            }
            train(&mut training, index, update..update + 1);
            let owned = |t: &NamedTensor<'_>| {
                NamedTensor::f32(t.name.clone(), &t.shape, t.as_f32().unwrap().to_vec())
            };
            training.state().unwrap().iter().map(owned).collect::<Vec<_>>()
        });
        left = states.into_iter().next_back().unwrap();
    }
    assert!(left == whole.state().unwrap());
}

#[test]
fn ranks_take_over_the_state_of_the_first_and_find_out_who_differs() {
    let config = split(&config("resnet9"), 3);
    let found = on_ranks(3, |index, rank| {
        let mut training = on_cpu(StepConfig { seed: index as u64, ..config.clone() });
        training.join(Box::new(rank)).unwrap();
        let unlike = training.check_replicas().unwrap_err().to_string();
        training.share_state(7).unwrap();
        training.check_replicas().unwrap();
        assert_eq!(training.num_updates(), 7);
        let state = format!("{:?}", training.state().unwrap());
        // A bit of one weight of one rank.
        if index == 1 {
            let mut weights = training.session().value::<f32>(0, "fc.weight").unwrap().into_owned();
            weights[3] = f32::from_bits(weights[3].to_bits() ^ 1);
            training.session_mut().set(0, "fc.weight", &weights).unwrap();
        }
        (unlike, state, training.check_replicas().unwrap_err())
    });
    let alone = on_cpu(StepConfig { seed: 0, ..config.clone() });
    for (unlike, state, error) in found {
        assert!(unlike.contains("2, 3 no longer have"), "{unlike}");
        assert!(state == format!("{:?}", alone.state().unwrap()));
        assert_eq!(error.exit_code(), 1);
        let message = error.to_string();
        assert!(
            message.contains("of 3 ranks, 2 no longer have") && message.contains("`fc.weight`"),
            "{message}"
        );
    }
}

#[test]
fn a_step_for_ranks_that_are_not_there_is_refused() {
    let of_two = split(&config("resnet9"), 2);
    let mut alone = on_cpu(of_two.clone());
    let message = alone.step(&random_batch(&of_two, CLASSES, 0), LR).unwrap_err().to_string();
    assert!(message.contains("planned for 2 ranks"), "{message}");
    let message = alone.join(Box::new(thread_ranks(3).remove(0))).unwrap_err().to_string();
    assert!(message.contains("planned for 2 ranks, and 3 are there"), "{message}");
    let mut of_nccl = on_cpu(StepConfig { all_reduce: AllReduce::Nccl, ..of_two });
    let message = of_nccl.join(Box::new(thread_ranks(2).remove(0))).unwrap_err().to_string();
    assert!(message.contains("--all-reduce nccl: NCCL joins ranks on GPUs"), "{message}");
    let synced = StepConfig { sync_bn: true, ..split(&config("resnet9"), 2) };
    let message = on_cpu(synced).session_mut().run_micro_batch(0).unwrap_err().to_string();
    assert!(message.contains("run_micro_batch_of_rank"), "{message}");
}

/// What ranks exchange is in no state, and takes what the design says: the gradient, as much received, and a share of it.
#[test]
fn an_exchange_takes_twice_the_gradient_and_a_share() {
    let bytes = |program: &Program, role| program.persistent_bytes_where(|value| value.role == role);
    let one = program(&split(&config("resnet18"), 1), DeviceKind::Cpu).unwrap();
    let gradient = bytes(&one, Role::Accumulated);
    for num_ranks in [2, 3] {
        let ranks = program(&split(&config("resnet18"), num_ranks), DeviceKind::Cpu).unwrap();
        let statistics = (num_ranks + 1) * bytes(&one, Role::State);
        let (exchanged, share) = (bytes(&ranks, Role::Exchanged), bytes(&ranks, Role::Accumulated));
        let exact = 2 * gradient + statistics;
        assert!((exact..exact + exact / 100).contains(&exchanged), "{exchanged} for {exact}");
        assert!((gradient / num_ranks..gradient / num_ranks * 101 / 100).contains(&share), "{share}");
    }
}

/// Ranks of a machine where what they send is counted.
const RANKS_PER_NODE: usize = 2;

/// A rank that counts what it sends to others, and of that what it sends to other machines.
struct Counting(ThreadRank, Arc<[AtomicUsize; 2]>);

impl Counting {
    fn count(&self, group: Group, bytes_of_each: usize) {
        let index = self.0.rank().index;
        for member in group.members(index).filter(|&member| member != index) {
            let is_elsewhere = member / RANKS_PER_NODE != index / RANKS_PER_NODE;
            for (sum, counts) in self.1.iter().zip([true, is_elsewhere]) {
                sum.fetch_add(usize::from(counts) * bytes_of_each, Ordering::Relaxed);
            }
        }
    }
}

impl Collective for Counting {
    fn rank(&self) -> Rank {
        self.0.rank()
    }

    fn all_gather_among(&mut self, group: Group, mine: &[u8], all: &mut [u8]) -> residuum::Result<()> {
        self.count(group, mine.len());
        self.0.all_gather_among(group, mine, all)
    }

    fn all_to_all(&mut self, group: Group, to_each: &[u8], from_each: &mut [u8]) -> residuum::Result<()> {
        self.count(group, to_each.len() / group.size);
        self.0.all_to_all(group, to_each, from_each)
    }
}

/// What a rank sends is what is said before, and what the design says: a gradient comes and goes as in a ring, in four bytes a
/// number or in two.
#[test]
fn a_rank_sends_the_gradient_twice_without_its_share() {
    let of_split = |grad_wire, num_ranks| split(&StepConfig { grad_wire, ..config("resnet18") }, num_ranks);
    let planned = |config: &StepConfig| program(config, DeviceKind::Cpu).unwrap();
    let one = planned(&of_split(DType::F32, 1));
    let bytes = |role| one.persistent_bytes_where(|value| value.role == role);
    let (gradient, statistics) = (bytes(Role::Accumulated), bytes(Role::State));
    assert_eq!(Traffic::of(&one, &split(&config("resnet18"), 1)), None);
    let types = [(DType::F32, gradient), (DType::Bf16, gradient / 2)];
    for (others, (grad_wire, gradient)) in
        [1, 2, 5].into_iter().flat_map(|n| types.map(|of_type| (n, of_type)))
    {
        let of_split = of_split(grad_wire, others + 1);
        let traffic = Traffic::of(&planned(&of_split), &of_split).unwrap();
        let Traffic { micro_batch_bytes, update_bytes, .. } = traffic;
        let exact = 2 * gradient * others / (others + 1) + others * statistics;
        let sent = micro_batch_bytes + update_bytes;
        assert!((exact..exact + exact / 100).contains(&sent), "{sent} for {exact}");
    }

    let (updates, exact) = (2, split_of(&config("resnet9"), 4, 4));
    let exact = StepConfig { ranks_per_node: RANKS_PER_NODE, ..exact };
    let mut to_nodes = Vec::new();
    for config in [
        exact.clone(),
        StepConfig { grad_wire: DType::Bf16, ..exact.clone() },
        StepConfig { sync_bn: true, ..exact.clone() },
        StepConfig { sum_order: SumOrder::Tree, ..exact },
    ] {
        let traffic = Traffic::of(&planned(&config), &config).unwrap();
        let rounds = config.grad_accum_steps;
        let expected = [traffic.bytes_of(rounds), traffic.node_bytes_of(rounds) / RANKS_PER_NODE];
        to_nodes.push(expected[1]);
        let sent = on_ranks(config.num_ranks, |index, rank| {
            let mut training = on_cpu(config.clone());
            let sent: Arc<[AtomicUsize; 2]> = Arc::default();
            training.join(Box::new(Counting(rank, Arc::clone(&sent)))).unwrap();
            train(&mut training, index, 0..updates);
            [0, 1].map(|which| sent[which].load(Ordering::Relaxed) / updates)
        });
        assert_eq!(sent, [expected; 4]);
    }
    // A half of the gradients of two ranks leave their machine, and not a half of each.
    assert!(to_nodes[3] * 100 < to_nodes[0] * 51, "{to_nodes:?}");
}

/// Names and bits of a state's tensors.
type State = Vec<Tensor>;
type Tensor = (String, Vec<u32>);

/// The losses of batches and the state after an update on which each rank has taken its batches, or one rank the same images as
/// batches that are as many times as large.
fn after_an_update(
    config: &StepConfig,
    num_ranks: usize,
    open: impl Fn(StepConfig) -> Training + Sync,
) -> [(Vec<f32>, State); 2] {
    let of_rank = split(config, num_ranks);
    let left = on_ranks(num_ranks, |index, rank| {
        let mut training = open(of_rank.clone());
        training.join(Box::new(rank)).unwrap();
        leave(&mut training, 1, index)
    });
    assert!(left.iter().all(|of_rank| *of_rank == left[0]), "ranks have the same bits");
    let losses: Vec<f32> = left[0].losses.iter().map(|&loss| f32::from_bits(loss)).collect();
    let losses = losses.chunks(num_ranks).map(|round| round.iter().sum::<f32>() / num_ranks as f32).collect();

    let mut whole =
        open(StepConfig { num_ranks: 1, batch_size: num_ranks * config.batch_size, ..of_rank.clone() });
    for round in 0..of_rank.grad_accum_steps {
        let of_round =
            (0..num_ranks).map(|rank| random_batch(config, CLASSES, (round * num_ranks + rank) as u64));
        let (images, labels): (Vec<_>, Vec<_>) = of_round.map(|batch| (batch.images, batch.labels)).unzip();
        whole.step(&Batch::new(images.concat(), labels.concat()), LR).unwrap();
    }
    let whole_losses = whole.take_results(|results| results.map(|result| result.loss).collect()).unwrap();
    [(losses, left.into_iter().next().unwrap().state), (whole_losses, state(&whole))]
}

/// By how much losses differ, and tensors as a share of the largest element.
fn difference([(losses, a), (whole_losses, b)]: &[(Vec<f32>, State); 2]) -> [f32; 2] {
    let largest =
        |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(0.0_f32, |most, number| most.max(number.abs()));
    let apart = |a: &[f32], b: &[f32]| largest(&mut a.iter().zip(b).map(|(a, b)| a - b));
    let of_tensor = |((_, a), (_, b)): (&Tensor, &Tensor)| {
        let [a, b] = [a, b].map(|bits| bits.iter().copied().map(f32::from_bits).collect::<Vec<f32>>());
        apart(&a, &b) / largest(&mut b.iter().copied()).max(f32::MIN_POSITIVE)
    };
    [apart(losses, whole_losses), largest(&mut a.iter().zip(b).map(of_tensor))]
}

/// Fails unless ranks whose batch norms are synchronised train as one rank on batches of all images, and others do not.
fn check_synced(config: &StepConfig, num_ranks: usize, open: impl Fn(StepConfig) -> Training + Sync) {
    let [synced, own] = [true, false].map(|sync_bn| {
        difference(&after_an_update(&StepConfig { sync_bn, ..config.clone() }, num_ranks, &open))
    });
    assert!(synced[0] < 1e-5 && synced[1] < 1e-4, "losses and state differ by {synced:?}");
    assert!(own[0] > 1e-3 && own[1] > 1e-1, "of their own batches they would differ by {own:?}");
}

/// A net of everything that fusion makes of batch norms: a stem with its pooling, a block whose shortcut has one, a block without.
struct Joining;

impl Network for Joining {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> residuum::Result<ValueId> {
        let norm = |graph: &mut Graph, name: &str, x, kernel| {
            let x = conv2d(graph, &format!("{name}.conv"), x, Conv2dConfig::square(16, kernel, 1))?;
            batch_norm(graph, &format!("{name}.bn"), x, BnConfig::new(mode))
        };
        let x = norm(graph, "stem", inputs.images, 3)?;
        let x = relu(graph, "stem.relu", x)?;
        let mut x = max_pool(graph, "stem.pool", x, PoolWindow::square(3, 2, 1))?;
        for block in ["first", "second"] {
            let shortcut = if block == "first" { norm(graph, "shortcut", x, 1)? } else { x };
            let inner = norm(graph, &format!("{block}.0"), x, 3)?;
            let inner = relu(graph, &format!("{block}.0.relu"), inner)?;
            let inner = norm(graph, &format!("{block}.1"), inner, 3)?;
            let sum = add(graph, &format!("{block}.add"), inner, shortcut)?;
            x = relu(graph, &format!("{block}.relu"), sum)?;
        }
        let x = global_avg_pool(graph, "features", x)?;
        linear(graph, "fc", x, CLASSES)
    }
}

#[test]
fn synchronised_batch_norms_are_those_of_one_batch_of_all() {
    for fuse in [Fusion::ALL, Fusion::NONE] {
        check_synced(&StepConfig { fuse, ..config("resnet18") }, 2, on_cpu);
    }
    check_synced(&StepConfig { seed: 3, ..StepConfig::new(Joining, 3, 16) }, 3, on_cpu);
}

/// On the emulator; threads in another order on each rank.
#[cfg(residuum_simt)]
#[test]
fn ranks_on_kernels_have_the_bits_of_one_rank() {
    for (float, grad_wire) in [(DType::F32, DType::Bf16), (DType::Bf16, DType::F32)] {
        let clip_grad = Some(0.5);
        let config = StepConfig {
            float,
            grad_wire,
            clip_grad,
            bucket_bytes: 1,
            seed: 3,
            ..StepConfig::new(Dropping, 2, 16)
        };
        check_splits(&config, 1, &[3], on_emulator());
        let [alone, splits] = tree_splits(&config, &[(4, 2)]);
        let expected = leave(&mut on_emulator()(alone[0].clone()), 1, 0);
        check_against(&expected, &splits, 1, on_emulator());
    }
}

/// Opens trainings on the emulator, each with threads in another order.
#[cfg(residuum_simt)]
fn on_emulator() -> impl Fn(StepConfig) -> Training + Sync {
    use residuum::device::simt::{Checks, SimtDevice};

    let seed = std::sync::atomic::AtomicU64::new(0);
    move |config| {
        let device = SimtDevice::new(seed.fetch_add(1, Ordering::Relaxed), Checks::Off).unwrap();
        let program = program(&config, DeviceKind::Simt).unwrap();
        let session = Session::on(program, Box::new(device), Start::Seed(config.seed)).unwrap();
        Training::in_session(config, session).unwrap()
    }
}

#[cfg(residuum_simt)]
#[test]
fn synchronised_batch_norms_on_kernels_are_those_of_one_batch_of_all() {
    let config = StepConfig { seed: 3, ..StepConfig::new(Joining, 2, 16) };
    for fuse in [Fusion::ALL, Fusion::NONE] {
        for float in [DType::F32, DType::Bf16] {
            check_synced(&StepConfig { fuse, float, ..config.clone() }, 2, on_emulator());
        }
    }
}
