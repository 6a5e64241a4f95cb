"""Table 3's second block: the strongest points of a TRADES DEQ, crafted again through Sec. 3.2."""

from deqpipe.evaluation.chosen_points import strongest_points
from deqpipe.evaluation.crafting import Attack
from deqpipe.evaluation.evaluated_model import EvaluationJob, load_transferring
from deqpipe.evaluation.images import Chunk, check_images
from deqpipe.evaluation.judge import CLASSES_ALONG
from deqpipe.evaluation.resumable import Part, run_groups
from deqpipe.evaluation.scoring import Panel
from deqpipe.evaluation.stages.grid import attack_groups
from deqpipe.workflow.defences import ENTROPY

IN_LOOP = "pgd_in_loop"  # the attack's name in records


def attack_in_loop(job: EvaluationJob, part: Part) -> int:
    """Attack through the defended dynamics, and score on the four TRADES decisions; returns the exit status.

    Forward, the surrogate is z^[i] of Sec. 3.2's dynamics; its gradient is that of the unroll at the received input.
    The points are those where the defended decision is weakest under the grid.

    Raises:
        UserError: another model or a ranking is missing, or of the wrong model; images are not there.
    """
    evaluated = load_transferring(job)
    check_images(evaluated, part.images)
    points = strongest_points(evaluated).points(ENTROPY.name)[: evaluated.settings["attack.in_loop_points"]]
    attacks = {point.name: Attack(point, through=ENTROPY.name, name=IN_LOOP) for point in points}
    chunk = Chunk(evaluated.dataset.test, part.images)
    judges = tuple(judge.restricted(CLASSES_ALONG) for judge in (*evaluated.judges, *evaluated.transferred))
    groups = attack_groups(evaluated, attacks, chunk, panel=Panel((), judges))
    return run_groups(evaluated, part, groups, piece_spec=job.spec)
