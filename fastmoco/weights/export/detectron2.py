"""Writes the files for the paper's detection transfer with detectron2, for an exported trunk.

Faster R-CNN with a C4 backbone; all layers are trained; BatchNorm is synchronised over the GPUs,
and one more follows res5 (1911.05722 section 4.2; settings of the official detection/ folder).
"""

from __future__ import annotations

from pathlib import Path

from data_tools.errors import UserError
from fastmoco.recipe import Recipe
from fastmoco.weights.resnets import RESNETS

# detectron2's Res5ROIHeads has bottleneck blocks
BOTTLENECKS = [arch for arch, resnet in RESNETS.items() if resnet.convolutions == 3]

BASE = """\
# {arch} trunk of fastmoco, C4: res2 to res4 are the backbone, res5 and a norm the box head
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  WEIGHTS: model.pkl
  # as the trunk was trained: RGB in 0..255 by these, and the stride in the 3x3 convolution
  PIXEL_MEAN: [{mean}]
  PIXEL_STD: [{std}]
  BACKBONE:
    FREEZE_AT: 0
  RESNETS:
    DEPTH: {depth}
    NORM: SyncBN
    STRIDE_IN_1X1: False
  RPN:
    PRE_NMS_TOPK_TEST: 6000
    POST_NMS_TOPK_TEST: 1000
  ROI_HEADS:
    NAME: Res5ROIHeadsWithNorm
INPUT:
  FORMAT: RGB
TEST:
  PRECISE_BN:
    ENABLED: True
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.02
"""

VOC = """\
# VOC07+12 trainval, 24k iterations; test on VOC07: take the mean of five runs
_BASE_: base-c4.yaml
MODEL:
  MASK_ON: False
  ROI_HEADS:
    NUM_CLASSES: 20
INPUT:
  MIN_SIZE_TRAIN: (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
  MIN_SIZE_TEST: 800
DATASETS:
  TRAIN: ("voc_2007_trainval", "voc_2012_trainval")
  TEST: ("voc_2007_test",)
SOLVER:
  STEPS: (18000, 22000)
  MAX_ITER: 24000
  WARMUP_ITERS: 100
"""

COCO = """\
# COCO train2017, 2x schedule; boxes and masks, test on val2017
_BASE_: base-c4.yaml
MODEL:
  MASK_ON: True
INPUT:
  MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)
  MIN_SIZE_TEST: 800
DATASETS:
  TRAIN: ("coco_2017_train",)
  TEST: ("coco_2017_val",)
SOLVER:
  STEPS: (120000, 160000)
  MAX_ITER: 180000
"""

TRAIN = '''\
"""Trains a detector on an exported trunk: python train_detector.py --config-file voc-24k.yaml"""

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.layers import get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsWithNorm(Res5ROIHeads):
    """res5 and, behind it, one more BatchNorm: its scale was never trained on single boxes."""

    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        width = self.res5[-1].out_channels
        self.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, width))


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset, output_folder=None):
        if dataset.startswith("voc"):
            return PascalVOCDetectionEvaluator(dataset)
        return COCOEvaluator(dataset, output_dir=output_folder or cfg.OUTPUT_DIR)


def main(args):
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, args.resume)
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
'''

HOW_TO = """\
## Detection transfer

With [detectron2](https://github.com/facebookresearch/detectron2) installed, and VOC or COCO under
`datasets/` (or where DETECTRON2_DATASETS points) in the folders that detectron2 documents:

```sh
python train_detector.py --config-file voc-24k.yaml --num-gpus 8
python train_detector.py --config-file coco-2x.yaml --num-gpus 8
```

`--num-gpus 1 SOLVER.REFERENCE_WORLD_SIZE 8` scales batch, rate and schedule down to one GPU.
Published for ResNet-50 pre-trained on ImageNet, VOC07 test, mean of five runs (AP50 / AP / AP75):
supervised 81.3 / 53.5 / 58.8, MoCo v1 200 epochs 81.5 / 55.9 / 62.6, v2 200 epochs
82.4 / 57.0 / 63.6, v2 800 epochs 82.5 / 57.4 / 64.0; their deviation is 0.2 / 0.2 / 0.4.
"""


def refuse_detection(recipe: Recipe) -> None:
    """Raise UserError for a trunk that detectron2's C4 head does not fit."""
    if recipe.arch not in BOTTLENECKS:
        raise UserError(
            f"--with-config: a C4 detector's head has blocks of three convolutions, "
            f"{recipe.arch} has none; leave it out, or use {', '.join(BOTTLENECKS)}"
        )


def write_detection(recipe: Recipe, out: Path) -> None:
    """Write the configurations for VOC07+12 and COCO, and the script that runs them, beside
    model.pkl."""
    scaled = [
        ", ".join(f"{255 * x:.3f}" for x in values)
        for values in (recipe.augmentation.mean, recipe.augmentation.std)
    ]
    base = BASE.format(
        arch=recipe.arch, depth=recipe.arch.removeprefix("resnet"), mean=scaled[0], std=scaled[1]
    )
    for name, text in (
        ("base-c4.yaml", base), ("voc-24k.yaml", VOC), ("coco-2x.yaml", COCO),
        ("train_detector.py", TRAIN),
    ):
        (out / name).write_text(text)
