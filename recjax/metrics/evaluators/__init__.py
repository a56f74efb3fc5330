"""The registry of evaluators. An evaluator measures the model on held-out rows (`config.evaluators`)."""

from recjax.metrics.evaluators.base import Evaluator as Evaluator
from recjax.metrics.evaluators.masked import Masked as Masked
from recjax.metrics.evaluators.ranking import Ranking as Ranking
from recjax.metrics.evaluators.rating import Rating as Rating
from recjax.metrics.evaluators.retrieval import Retrieval
from recjax.metrics.evaluators.title import Title as Title
from recjax.schema.overrides import EVALUATORS

EVALUATORS |= {kind.evaluator: kind for kind in (Retrieval, Ranking, Rating, Title, Masked)}
