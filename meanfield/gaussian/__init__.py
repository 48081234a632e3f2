"""Expectations of products of activations over correlated Gaussians."""

from meanfield.gaussian.duals import dual as dual
from meanfield.gaussian.duals import dual_grad as dual_grad
from meanfield.gaussian.softmax import softmax_moments as softmax_moments
from meanfield.gaussian.vocabulary import class_overlap as class_overlap
