"""Backbones over the token space. A `Family` record describes each (`recjax.models.family`)."""

from recjax.models.backbone import build as build
from recjax.models.backbone import check_model as check_model
from recjax.models.backbone import family as family
from recjax.models.backbone import graph as graph
from recjax.models.backbone import hidden as hidden
from recjax.models.backbone import save_shape as save_shape
from recjax.models.backbone import shape_of as shape_of
from recjax.models.backbone import start_id as start_id
from recjax.models.backbone import upgraded as upgraded
from recjax.models.backbone import without_source as without_source
from recjax.models.families import FAMILIES as FAMILIES
