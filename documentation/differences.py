"""Where the paper and its authors' code differ, or one of them is silent, and what deqpipe does: the data of a page.

docs/differences.md is made of it (`make generate`). Values of keys stand in `config.PROTOCOLS` and config.yaml alone,
where the page takes them from. Items are numbered once and for all, so that code, tables and discussions can name them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Evidence = Literal["verified", "read", "inferred"]
"""Verified: by running the authors' code on a CPU; read: in it; inferred: from numbers in the paper."""


@dataclass(frozen=True)
class Difference:
    """One choice that results depend on.

    Attributes:
        items: its numbers.
        topic: what is chosen.
        paper: what the paper says.
        release: what the authors' code does.
        here: what deqpipe does; a value that a key holds is never repeated.
        keys: the keys of the configuration that decide; none where it is always so.
    """

    items: tuple[int, ...]
    topic: str
    paper: str
    release: str
    here: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What a reader of results should know first, how it is known, and the items that it concerns."""

    text: str
    evidence: tuple[Evidence, ...]
    items: tuple[int, ...]


FINDINGS: tuple[Finding, ...] = (
    Finding(
        "In the authors' code Sec. 3.2 with T_f = N = 8 changes nothing, bit for bit: the only input update comes "
        "after the last state. Table 5's row T_f = 8 (52.80 to 52.85, flat in R) would then belong to the undefended "
        "TRADES + Sec. 3.3 model, for which Table 1 gives 51.10. Whether one of the attacks was weaker or other code "
        "made Table 5 cannot be told from the release; Table 1's control rows measure it here.",
        ("verified", "inferred"),
        (75, 77, 80),
    ),
    Finding(
        "In the authors' code Sec. 3.2 changes the solver even where the input stays as it is (R = 0): Broyden's "
        "memory starts anew every T_f steps. With random weights the states differ from the plain ones from z^[4] "
        "on, by 13 to 14 % in norm at z^[4] and by 30 to 32 % at z^[8].",
        ("verified",),
        (76,),
    ),
    Finding(
        "In the authors' code PGD against Sec. 3.2 never sees Sec. 3.2: it is crafted on the undefended forward "
        "pass. The columns BASE and B+S3.2 of Table 3, and B+S3.3 and B+S3.2&3.3, would then be the same attacks but "
        "for their random starts. Of the eight pairs of numbers six differ by less than 0.5, one by 0.71 and one "
        "(51.10 and 52.89) by 1.79.",
        ("read", "inferred"),
        (82,),
    ),
    Finding(
        "AutoAttack in the authors' code does go through Sec. 3.2, and takes the gradient of the unroll at the "
        "original input from the defended state: BPDA with the identity, at the wrong point. The paper says that no "
        "BPDA was used.",
        ("verified",),
        (62, 82),
    ),
    Finding(
        "AutoAttack's images in the authors' code are a mixture: only those that fooled the surrogate are "
        "adversarial, the others stay clean, and all are then scored by another decision. That biases the column AA "
        "upwards, and may be why Square stands nearly 14 points above APGD in Table 4.",
        ("read", "inferred"),
        (62,),
    ),
    Finding(
        "Sec. 3.3 in the authors' code does not train on z^[i] with i ~ U[1, N]: it stops the solver after i steps, "
        "and takes the state with the lowest residual so far, one for the whole batch. So some states may never be "
        "trained on: at initialisation z^[3] was not picked in any of six runs on random images.",
        ("read", "verified"),
        (43,),
    ),
    Finding(
        "In the authors' code random states are active while training attacks and the selecting attack are crafted, "
        "too, and the two branches of TRADES draw independently.",
        ("read",),
        (45, 46, 50),
    ),
    Finding(
        "In the authors' code the weight-normed convolutions are not initialised from N(0, 0.01^2), but keep "
        "PyTorch's uniform initialisation.",
        ("verified",),
        (1,),
    ),
)

_MODEL = (
    Difference(
        (1,),
        "initialisation",
        "not stated",
        "N(0, 0.01^2) for convolutions and their biases; not for the weight-normed ones, as the draw goes to a "
        "tensor that weight normalisation overwrites. These, the linear layer and GroupNorm keep PyTorch's.",
        "Either, by the key; the ResNets start as torchvision's do.",
        ("model.init",),
    ),
    Difference(
        (2,),
        "weight normalisation",
        "not stated",
        "w = v g / norm(v), per output channel, on both convolutions of a block and on the one after fusing",
        "The same.",
        ("model.weight_norm",),
    ),
    Difference(
        (3,),
        "dropout in f",
        "not stated",
        "Variational, 0.22: one mask per image and channel for all pixels and all applications of f in a forward "
        "pass; a new one for the next pass, so the two branches of TRADES have different ones; none in evaluation "
        "mode, in which attacks are crafted",
        "The same; masks are drawn from a stream keyed by the training step.",
        ("model.dropout",),
    ),
    Difference(
        (4,),
        "normalisation layers",
        "not stated",
        "GroupNorm in f (8 groups; after fusing 4, without parameters), BatchNorm in stem and head",
        "The same.",
        ("model.groups",),
    ),
    Difference(
        (5,),
        "input injection",
        "x enters f at every step (Eq. 1).",
        "Only into the finest scale: after the second convolution and dropout, before the GroupNorm",
        "The same.",
    ),
    Difference(
        (6,),
        "width of model and head",
        "Appendix A: channels 32 to 256, head channels 14 to 112, 1680 before the classifier",
        "The same; the head is four times as wide as its bottlenecks; residual blocks of f are five times as wide as "
        "their scale.",
        "The same.",
        ("model.channels", "model.head_channels", "model.final_channels", "model.expansion"),
    ),
    Difference(
        (8,),
        "images",
        "not stated",
        "In [0, 1], not normalised; random crop after padding by 4, horizontal flip",
        "In [0, 1], not normalised; augmentation by the key.",
        ("data.augment",),
    ),
)

_SOLVER = (
    Difference(
        (9,),
        "start and length",
        "z^[0] = 0, N = 8",
        "The same; no line search, so z^[1] = f(0; x)",
        "The same.",
        ("solver.steps",),
    ),
    Difference(
        (10,),
        "which state is z*",
        "z^[N] (Sec. 2)",
        "The state with the lowest residual, by one norm over the batch; z^[0] is no candidate.",
        "By the key; z^[i] in attacks and early states is always the state after i steps.",
        ("solver.returned",),
    ),
    Difference(
        (11,),
        "coupling of images",
        "not stated",
        "Norms over the whole batch (96 images) decide about stopping and z*: a prediction depends on the images "
        "beside it.",
        "By the keys. Where images are coupled, the batch size of the evaluation is part of what results depend on.",
        ("solver.scope", "solver.returned", "evaluation.batch_size"),
    ),
    Difference(
        (12,),
        "tolerance",
        "N is constant.",
        "A solve ends when the relative residual of the batch falls below 1e-3; it then has fewer than N states, and "
        "scripts that count on N fail. After more than 30 steps it also ends when the residual is below 3e-3 and "
        "hardly moves.",
        "By the keys; an image that has stopped keeps its state, so there are always N. Nothing ends a solve for "
        "hardly moving.",
        ("solver.tolerance", "solver.scope"),
    ),
    Difference(
        (13,),
        "relative residual",
        "norm(f(z) - z) / norm(f(z)) of an image (Fig. 2a)",
        "The same with norms over the batch, and 1e-9 added to the denominator",
        "Records hold each image's own, with the same 1e-9; the key says which of the two decides.",
        ("solver.scope",),
    ),
    Difference(
        (14,),
        "solves that fail",
        "not stated",
        "A solve ends when the residual has grown a thousandfold since its first step. Entries of the memory that "
        "are NaN become 0, infinite ones stay; the NaN of one image makes the batch's residual NaN, so that z* of all "
        "its images is an earlier state. If all residuals are NaN, zeros are returned without a word.",
        "The stop belongs to one scope of the key. A pair of the memory that is not finite is left out whole. "
        "Records say of every image how its solve ended; logits that are not finite predict no class, which counts "
        "as wrong.",
        ("solver.scope",),
    ),
    Difference(
        (15,),
        "precision",
        "An RTX 3090",
        "fp32 with PyTorch's defaults, which let cuDNN compute convolutions in TF32; no version of PyTorch is given.",
        "By the key; device and versions stand in every result's provenance.",
        ("precision",),
    ),
    Difference(
        (16,),
        "method",
        "Broyden's",
        "Broyden's; Anderson mixing is there, but calls a function that current PyTorch no longer has.",
        "By the keys. Anderson mixing is not the authors': its ridge is at the level of rounding, theirs is 1e-4.",
        ("solver.name", "solver.memory"),
    ),
)

_UNROLLING = (
    Difference(
        (17,),
        "exact gradient",
        "The phantom gradient trains (Appendix A).",
        "The same; the exact gradient, with 7 steps for the adjoint equation, is a variant of the evaluation code.",
        "By the keys in training; attacks are always unrolled.",
        ("training.gradient.name", "training.gradient.steps"),
    ),
    Difference(
        (18,),
        "unroll in training",
        "5 steps (Appendix A)",
        "One undamped f, then 5 damped steps",
        "By the keys.",
        ("training.unroll.lead_step", "training.unroll.steps"),
    ),
    Difference(
        (19,),
        "unroll of an attack",
        "Eq. (11): z_a^[i] = z^[i], then K_a damped steps",
        "One undamped f, then K_a damped steps; with lambda = 1 that is K_a + 1 steps of Eq. (11).",
        "By the key.",
        ("attack.unroll.lead_step",),
    ),
    Difference((20,), "lambda in training", "not stated", "0.5", "By the key.", ("training.unroll.damping",)),
    Difference(
        (21,),
        "final state",
        "'The final state after unrolling' (Appendix A)",
        "Two different ones: z* after 1 + 5 steps in training and its validation, after 1 + 9 in evaluation",
        "z* after the key's damped steps (lambda 0.5) in evaluation, with the undamped step first where attacks have "
        "it; in training and model selection after those of `training.unroll`. The ready-made attack of the "
        "evaluation unrolls z^[N], whatever z* is.",
        ("evaluation.final_unroll_steps", "attack.unroll.lead_step"),
    ),
    Difference(
        (22,),
        "gradient through z^[i]",
        "Not stated",
        "None: z^[i] is a constant.",
        "None.",
    ),
)

_TRAINING = (
    Difference(
        (24,), "epochs", "210 (Appendix A)", "220 in every file of settings", "By the key.", ("training.epochs",)
    ),
    Difference(
        (25,),
        "learning rate",
        "1e-3 with cosine decay",
        "Cosine per step from 1e-3 to 1e-6 over all 220 epochs, pretraining included",
        "Cosine per step over all epochs, pretraining included, between the two keys.",
        ("training.learning_rate", "training.learning_rate_min"),
    ),
    Difference(
        (26,),
        "optimiser",
        "Adam with 'Nesterov momentum 0.98'",
        "Adam with PyTorch's betas (0.9, 0.999); the settings' momentum is not read.",
        "Adam with the key's betas.",
        ("training.betas",),
    ),
    Difference(
        (27,),
        "pretraining",
        "16,000 steps of the truncated network, on clean images",
        "f applied 8 times with shared weights, cross-entropy, no damping, no Jacobian term; within the 220 epochs",
        "The same, within `training.epochs`.",
        ("pretrain.layers", "pretrain.steps"),
    ),
    Difference(
        (28,),
        "first step after pretraining",
        "not stated",
        "One step of the DEQ on clean images stands between pretraining and adversarial training.",
        "No such step.",
    ),
    Difference(
        (29,),
        "trunk",
        "'Pretrain ... and then conduct adversarial training'",
        "One uninterrupted run per model, each with a pretraining of its own from the same seed",
        "One trunk per seed for all four DEQs: weights and optimiser state are handed over; schedule, data order and "
        "augmentation go on as in one run.",
    ),
    Difference(
        (30,),
        "Jacobian term: when",
        "not stated",
        "On 2 % of the steps, at random, until epoch 90 (pretraining excluded, but counted); 2 Gaussian probes; the "
        "squared norm divided by the number of entries",
        "The same, by the keys.",
        ("jacobian.frequency", "jacobian.stop_epoch", "jacobian.probes"),
    ),
    Difference(
        (31,),
        "Jacobian term: weight",
        "Appendix C.2: 2.0 for PGD-AT; for TRADES 0.4 or 2.0 make little difference.",
        "0.4 where TRADES is trained and in the earlier repository's PGD-AT; 2.0 in all settings of the evaluation "
        "code, which does not use it",
        "By the keys.",
        ("jacobian.weight.pgd_at", "jacobian.weight.trades"),
    ),
    Difference(
        (32,),
        "Jacobian term of TRADES",
        "not stated",
        "The sum over the natural and the adversarial branch",
        "By the key.",
        ("jacobian.trades_terms",),
    ),
    Difference(
        (33,),
        "length of regularised solves",
        "N is constant.",
        "N plus a uniform draw from -2 to 1 on steps with the Jacobian term",
        "N plus a uniform draw from the key's range, both ends included, on steps with the Jacobian term.",
        ("jacobian.length_jitter",),
    ),
    Difference(
        (34,),
        "batches",
        "96 images, weight decay 0",
        "The same; no gradient clipping; the last batch of an epoch is smaller.",
        "The same.",
        ("training.batch_size", "training.weight_decay"),
    ),
    Difference(
        (35,),
        "seeds",
        "not stated",
        "Training: seed 42 for PyTorch, none for NumPy, which PGD's random starts come from; evaluation: none",
        "Every random number is a function of seed, purpose and image, epoch or step.",
        ("seeds",),
    ),
    Difference(
        (36,),
        "resuming a training",
        "not stated",
        "Random numbers and data order are lost, and the best accuracy so far becomes that of the resumed epoch, so "
        "that a worse epoch can replace the best.",
        "A resumed training goes on as if it had never stopped; the best epoch is part of what is saved.",
    ),
    Difference(
        (37,),
        "several GPUs",
        "One GPU",
        "One by default; more split each batch, and with it solver norms and BatchNorm statistics.",
        "A job computes on one device.",
    ),
    Difference(
        (38,),
        "TRADES loss",
        "1/lambda = 6",
        "Cross-entropy of the natural branch plus 6 times the mean KL divergence; the gradient flows through both "
        "branches, which are separate passes in training mode, so BatchNorm statistics are updated twice a step.",
        "The same.",
        ("training.trades.inverse_lambda",),
    ),
    Difference(
        (39,),
        "PGD-AT with Sec. 3.3",
        "A row of Tables 1, 2, 6 and 7",
        "Its training code is not released: the earlier repository has PGD-AT without Sec. 3.3, this one TRADES with "
        "it.",
        "PGD-AT and random states put together.",
    ),
    Difference(
        (40,),
        "weight decay",
        "5e-4 makes the loss NaN after about 20 epochs (Sec. 5.3).",
        "0; losses are not checked.",
        "By the key; a loss or gradient that is not finite, or a loss above a thousand times log(classes), stops a "
        "training before the update.",
        ("training.weight_decay",),
    ),
)

_TRAINING_ATTACKS = (
    Difference(
        (41,),
        "attack of PGD-AT",
        "epsilon 8/255, 10 steps of 2/255",
        "The same: uniform start clamped into [0, 1], evaluation mode, cross-entropy, steps along the sign",
        "The same, by the keys; the start is always clamped.",
        ("training.attack.steps", "training.attack.step_size_255", "threat_model.epsilon_255"),
    ),
    Difference(
        (42,),
        "attack of TRADES",
        "not stated",
        "Gaussian start of deviation 0.001, not clamped; KL divergence to the natural prediction, which is computed "
        "again in every step",
        "The same; the natural prediction is computed once per state, as it does not change while an attack is "
        "crafted.",
        ("training.trades.start_noise", "training.attack.steps", "training.attack.step_size_255"),
    ),
)

_RANDOM_STATES = (
    Difference(
        (43,),
        "which state",
        "z^[i] with i ~ U[1, N] (Eq. 10)",
        "The state with the lowest residual among z^[1] .. z^[i], i ~ U[1, N]; it is unrolled before the loss.",
        "By the key; the state is then made differentiable as everywhere in training.",
        ("random_state.pick",),
    ),
    Difference((44,), "draws", "not stated", "One per forward pass, for the whole batch", "One per batch."),
    Difference(
        (45,),
        "while crafting",
        "The maximum stands outside the expectation (Eq. 10).",
        "Random too: a new draw in every attack step",
        "By the key.",
        ("random_state.in_attack",),
    ),
    Difference(
        (46,),
        "natural branch of TRADES",
        "Eq. (10) is about the perturbed states.",
        "Random too, drawn independently",
        "By the key, in the loss and while crafting.",
        ("random_state.natural",),
    ),
    Difference((47,), "pretraining", "not stated", "No random states", "No random states."),
)

_SELECTION = (
    Difference(
        (49,),
        "images",
        "'The CIFAR-10 validation set' (Appendix A)",
        "The test set, which the results are reported on as well: they leak. Training sees all 50,000 training images.",
        "By the key. Whatever it says, the held-out images are never trained on, so trainings see fewer images than "
        "the authors' and epochs are shorter.",
        ("selection.split", "data.validation"),
    ),
    Difference(
        (50,),
        "selecting attack",
        "Ready-made PGD-10 at the final state after unrolling",
        "Crafted at random states where training has them, scored at the final state; an image that is classified "
        "wrong is left alone, and a batch in which every image is wrong is left for good.",
        "PGD from a clamped uniform start on the final state, unrolled as in training, but for what the keys say. No "
        "batch is left for good: with random states a later step may find an image right again.",
        (
            "selection.attack_random_state",
            "selection.freeze_fooled",
            "selection.attack.steps",
            "selection.attack.step_size_255",
        ),
    ),
    Difference(
        (51,),
        "epochs that are tried",
        "not stated",
        "Training code: from number 30 on, counted from 0, which is the 31st; earlier repository: all",
        "From the key's on, counted from 1; epochs of pretraining are never tried, so that with the authors' 30.7 "
        "epochs of it the first is the 31st, too; of equal ones the earlier.",
        ("selection.first_epoch",),
    ),
    Difference(
        (52,),
        "weights that are evaluated",
        "The best epoch's",
        "Those in a file that is copied by hand",
        "The best epoch's, from the file that training wrote; `deqpipe import-checkpoint` makes such a file of one "
        "of the authors' code.",
    ),
)

_EVALUATION = (
    Difference(
        (53,),
        "AutoAttack in the training code",
        "not stated",
        "Meets random states: a randomised defence",
        "Not part of the workflow.",
    ),
    Difference(
        (54,),
        "PGD",
        "PGD-10, epsilon 8/255",
        "Uniform start, not clamped; all images take all steps; cross-entropy",
        "The same, but for the clamp, which the key decides.",
        ("attack.pgd.clamp_start", "attack.pgd.steps", "attack.pgd.step_size_255"),
    ),
    Difference(
        (55,),
        "how states are counted",
        "From 1: 1 <= i <= N",
        "From 0, although its README calls the number 'the i in Eq. (11)'",
        "From 1 everywhere.",
        ("attack.grid.states", "early_state.index"),
    ),
    Difference(
        (56,),
        "'last but one' state",
        "'Always the last but one intermediate state' decides (Appendix A); literally z^[7].",
        "The last but one of z^[1] .. z^[8] and the unrolled final state: z^[8], not unrolled",
        "Any state by the keys.",
        ("early_state.mode", "early_state.index"),
    ),
    Difference(
        (57,),
        "choice of the early state",
        "The one with the highest accuracy under ready-made PGD-10 (Sec. 4), or always the last but one (Appendix A)",
        "Always z^[8] (item 56)",
        "By the key. The choice is made on the images of `selection.split`, for every DEQ without and with Sec. 3.2 "
        "separately; of equal ones the later. The accuracies of all states stand beside it.",
        ("early_state.mode", "selection.split"),
    ),
    Difference(
        (58,),
        "strongest attack",
        "The minimum over 8 x 9 x 2 = 144 attacks of the mean accuracy",
        "Accuracies of single attacks; the minimum is left to the reader.",
        "The same, with the per-image worst case beside it in Table 1; a grid always contains the ready-made attack.",
        ("attack.grid.states", "attack.grid.steps", "attack.grid.damping"),
    ),
    Difference(
        (61,),
        "version of AutoAttack",
        "'AutoAttack'",
        "Single attacks of the version 'plus', each on every batch by itself; how a column is made of them is left "
        "open.",
        "standard: APGD-CE, APGD-T, FAB-T and Square one after the other; an image leaves once the true decision errs. "
        "individual: each on every image, and the lowest mean accuracy counts.",
        (
            "autoattack.mode",
            "autoattack.restarts",
            "autoattack.attacks",
            "autoattack.iterations",
            "autoattack.targets",
            "autoattack.queries",
        ),
    ),
    Difference(
        (62,),
        "AutoAttack's images",
        "not stated",
        "Only images that fooled the surrogate are adversarial, the others stay clean; all are scored at the early "
        "state.",
        "Scored on the true decision. best_loss: the image of highest loss, or the one that fools the surrogate where "
        "only that errs; FAB-T gives an image only where it succeeds, and the tables count where it did not.",
        ("autoattack.keep", "autoattack.defence_in_loop"),
    ),
    Difference(
        (63,),
        "AutoAttack's surrogates",
        "(i, K_a) = (3, 5) for TRADES + Secs. 3.2 & 3.3, seven pairs in Table 4; not stated for other rows",
        "Whatever is asked for",
        "The strongest point of each decision's own grid; Table 4: the strongest ones at lambda = 0.5.",
        ("autoattack.top_points",),
    ),
    Difference(
        (64,),
        "AutoAttack's seeds and checks",
        "not stated",
        "Seeded by the clock; called batch by batch",
        "Seeded per attack and batch; the library's warnings stand in the notes of the tables.",
        ("autoattack.batch_size", "autoattack.images_per_job"),
    ),
    Difference(
        (65,),
        "column ALL",
        "The minimum of PGD and AutoAttack",
        "No code",
        "The same, with the share of images that are right under both beside it.",
        ("autoattack.mode",),
    ),
    Difference(
        (66,),
        "Square on 1,000 images",
        "Which ones is not stated.",
        "Nothing selects them; 1,000 is no multiple of the batch size 96.",
        "The first ones of the test split, in AutoAttack as well.",
        ("autoattack.square_images", "evaluation.images"),
    ),
    Difference(
        (67,),
        "clean accuracy",
        "At the early state, with the defence on",
        "The same, computed again with every attack",
        "The same, computed once.",
    ),
    Difference(
        (68,),
        "other defences and attacks",
        "not stated",
        "An ensemble of all states, and PGD-1000",
        "PGD of any length by the key; no ensemble.",
        ("attack.pgd.steps",),
    ),
    Difference(
        (69,),
        "simultaneous adjoint",
        "Weaker than unrolled intermediates, so not used (Appendix A)",
        "In the earlier repository without its models and solvers",
        "Not part of the workflow.",
    ),
    Difference(
        (70,),
        "ResNet-18",
        "Numbers of Pang et al. (2021, 2022)",
        "No code",
        "Trained and attacked here, with the recipe of Pang et al.; the epoch is selected as for DEQs.",
        (
            "resnet.layers",
            "resnet.training.epochs",
            "resnet.training.batch_size",
            "resnet.training.learning_rate",
            "resnet.training.momentum",
            "resnet.training.weight_decay",
            "resnet.training.milestones",
            "resnet.training.factor",
        ),
    ),
)

_ENTROPY = (
    Difference(
        (71,),
        "step",
        "Along the gradient (Eq. 8)",
        "Along its sign, of the mean entropy over the batch",
        "By the key; the gradient is of each image's own entropy, not divided by the size of a batch.",
        ("entropy.step",),
    ),
    Difference(
        (72,),
        "projection",
        "Of the input itself onto [-epsilon, epsilon] (Eq. 8); the text bounds the update u.",
        "Onto the ball of radius epsilon around the received input, and into [0, 1]",
        "As the authors' code.",
        ("threat_model.epsilon_255",),
    ),
    Difference(
        (73,),
        "start of a round",
        "x_0^[t] = x_R^[t] (Sec. 3.2)",
        "The last input of the round before",
        "The last input of the round before.",
    ),
    Difference(
        (74,),
        "state in H",
        "f(z^[t+1]; x), z^[t+1] being the newest state",
        "f at the state with the lowest residual of the round; constant while the input changes",
        "f at the state that the key says; constant while the input changes.",
        ("entropy.state",),
    ),
    Difference(
        (75,),
        "what a new input does to the solve",
        "z^[t+1] is solved again (Algorithm 1, line 13).",
        "No state is solved again. The newest rank-one pair is corrected by the change of the residual, and the next "
        "round starts from the old state. Where that is not the last one, the correction leaves little of the pair but "
        "the input's change, and with R = 0 rounding alone: states can jump.",
        "By the key. Algorithm 1 is read so: the step to z^[t+1] and its rank-one pair are dropped; from z^[t], with "
        "the memory before that step and the residual of the new input, z^[t+1] is solved again, and recorded in "
        "place of the old one.",
        ("entropy.resolve",),
    ),
    Difference(
        (76,),
        "memory",
        "not stated",
        "Kept for the first step of a round alone: after it, the memory is filled anew from the first slot, so that "
        "it never holds more than T_f pairs. There are N // T_f rounds: what T_f leaves over of N is never solved.",
        "Kept with Algorithm 1, as the authors' code with their rule, but that what T_f leaves over of N is a shorter "
        "last round. Control rows of Table 1 tell what the restarts do by themselves.",
        ("entropy.resolve", "entropy.controls"),
    ),
    Difference(
        (77,),
        "update after z^[N]",
        "z^[N] is solved again, as every state whose number T_f divides.",
        "Has no effect: no state follows, and the final state is unrolled at the original input. z^[1] .. z^[T_f] "
        "are never changed.",
        "By the key.",
        ("entropy.last_update",),
    ),
    Difference(
        (78,),
        "final state",
        "not stated",
        "Unrolled with the original input",
        "By the key.",
        ("entropy.final_input",),
    ),
    Difference(
        (79,),
        "R",
        "10 (Sec. 4, Appendices A and D), 20 (Sec. 5.2)",
        "10",
        "By the key.",
        ("entropy.input_steps",),
    ),
    Difference(
        (80,),
        "T_f, beta, epsilon",
        "2, 2/255, 8/255; Table 5 varies T_f.",
        "Written into the code; T_f = 1 is another algorithm in a file of its own.",
        "By the keys; T_f from 1 to N; Table 5 by the keys of the sweep. Control rows of Table 1 have T_f = N with the "
        "authors' keys.",
        (
            "entropy.solver_steps",
            "entropy.step_size_255",
            "threat_model.epsilon_255",
            "entropy.controls",
            "entropy_sweep.solver_steps",
            "entropy_sweep.input_steps",
            "entropy_sweep.points",
        ),
    ),
    Difference(
        (81,),
        "entropy",
        "Of h(z), which the text calls logits (Eq. 6)",
        "Of the softmax, in nats",
        "Of the softmax, in nats.",
    ),
    Difference(
        (82,),
        "what attacks see of it",
        "Intermediate-state attacks 'as adaptive attacks', no BPDA (Sec. 4.2)",
        "PGD is crafted on the undefended dynamics; AutoAttack goes through the defence, with the gradient at the "
        "original input.",
        "Nothing, with the key's only value: images are crafted on the undefended dynamics and scored on every "
        "decision. Tables say so.",
        ("attack.defence_in_loop",),
    ),
)

_FIGURES = (
    Difference(
        (84,),
        "Figure 2",
        "'A DEQ trained with AT', z^[N]; attack and bins are not stated.",
        "No code",
        "PGD-AT without Sec. 3.3, undefended, clean and under the ready-made attack, at z^[N].",
    ),
    Difference(
        (85,),
        "Figures 3(a) and 5, Table 8",
        "The strongest attack per state",
        "No code",
        "From the grid; minima have intervals.",
    ),
    Difference(
        (86,),
        "Figure 3(b)",
        "Entropy falls at every t > 1 by Sec. 3.2.",
        "No code; z^[2] cannot change with T_f = 2 (item 77), and the change of the solver (item 76) is part of the "
        "difference.",
        "On the same attacked images with and without Sec. 3.2; a line shows the control R = 0.",
        ("entropy.controls",),
    ),
    Difference(
        (87,),
        "Figure 3(c)",
        "Relative difference of states; how it is averaged is not stated.",
        "No code",
        "Mean over images of norm(z - z_clean) / norm(z_clean), over all scales together, at the strongest attack.",
    ),
    Difference(
        (88,),
        "Figures 4 and 6",
        "PGD-10 on 'the validation set' after each epoch",
        "The selecting attack (items 49 to 51)",
        "From the training histories, on the images of the key.",
        ("selection.split", "jacobian.other_weight.pgd_at", "jacobian.other_weight.trades", "figures.jacobian"),
    ),
    Difference(
        (89,),
        "Tables 6 and 7",
        "Eqs. (12) and (13), without saying which state the equilibrium is",
        "No code",
        "z^[N], with the final state beside it.",
    ),
    Difference(
        (90,),
        "Table 3",
        "Minimum accuracy under all transferred attacks",
        "No code",
        "The same; columns of one training are the same images, as crafting does not see Sec. 3.2. A second block has "
        "the strongest points crafted through it.",
        ("attack.transfer", "attack.in_loop_points"),
    ),
    Difference(
        (91,),
        "Tables 9 and 10",
        "Samples per second; conditions are not stated.",
        "A logger prints the batch size over the mean time of a batch.",
        "Median of repeated passes after a warm-up, alone on the machine; hardware and load stand with the tables.",
        ("timing.batch_size", "timing.warmup", "timing.repeats"),
    ),
    Difference(
        (92,),
        "uncertainty",
        "One number per cell",
        "One seed",
        "Accuracies have intervals; tables show the first seed, and of several the lowest and highest value; "
        "every seed's value and their mean are in the CSV and in results.json.",
        ("seeds", "statistics.confidence", "statistics.resamples"),
    ),
)

_ENGINEERING = (
    Difference(
        (96,),
        "killed evaluations",
        "not stated",
        "A batch's file is written after the clean images and again after the attacked ones, and skipped once it is "
        "there: a kill in between leaves it incomplete for good.",
        "A file under its final name is whole; finished attack points are kept, half-finished ones are computed again.",
    ),
)

DIFFERENCES: Mapping[str, tuple[Difference, ...]] = {
    "Model and initialisation": _MODEL,
    "Solver": _SOLVER,
    "Unrolling and gradients": _UNROLLING,
    "Training loop": _TRAINING,
    "Training attacks": _TRAINING_ATTACKS,
    "Random intermediate states (Sec. 3.3)": _RANDOM_STATES,
    "Model selection": _SELECTION,
    "Evaluation": _EVALUATION,
    "Input entropy reduction (Sec. 3.2)": _ENTROPY,
    "Figures and tables": _FIGURES,
    "Engineering": _ENGINEERING,
}
"""All that touches a result, by section."""

NO_RESULT: Mapping[int, str] = {
    7: "dropout with rate 0 at the end of f does nothing",
    23: "state and K_a of an attack are single digits of a string; the paper's grid needs no more",
    48: "a file name in a README",
    59: "attacks on z^[i] solve all N steps; later states do not change earlier ones",
    60: "batch accuracies are weighted by sizes written into a script: right for 10,000 images in batches of 96",
    83: "AutoAttack through the defence keeps graphs alive, which only takes memory",
    93: "no requirements, no licence, no tests, left-overs of other projects",
    94: "does not run on current PyTorch as it is",
    95: "a script's logger fails on an empty setting",
    97: "thousands of result files without an index",
}
"""Items that touch no result, and why."""
