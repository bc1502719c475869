from agents.trainer import Figures


def test_figures_are_means_over_all_measurements():
    figures = Figures()
    assert figures.means() == {}
    figures.add({"loss": 6.0, "q": 3.0}, 3)
    figures.add({"loss": 2.0, "q": 1.0}, 1)
    assert figures.means() == {"loss": 2.0, "q": 1.0}
