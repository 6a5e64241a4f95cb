"""What a configuration needs on the disk, looked for before anything runs. No torch."""

from pathlib import Path

from deqpipe import config as configuration
from deqpipe.config import Config
from deqpipe.workflow import specs
from deqpipe.workflow.stages import STAGES


def check_inputs(config: Config) -> None:
    """Refuse images and imported models that are not there, and more test images than there are.

    Nothing is opened: of an image folder, files are counted. Once its images have been read, what was made of them
    counts.

    Raises:
        UserError: names the key, its value and what is there.
    """
    dataset = Path(config.pathvars.results, STAGES["data"].path)
    if configuration.prepared_by(dataset) == specs.build("data", config):
        configuration.check_prepared_images(config, dataset)
    else:
        configuration.check_image_folder(config)
    configuration.check_imported_files(config)
